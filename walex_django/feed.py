"""The messages of one connection to events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .catalogue import ColumnTypes, ModelTables
from .conf import StreamConfig
from .delivery import Delivery
from .events import Event, EventType
from .filters import Subscriptions
from .pgoutput import copydata
from .pgoutput.copydata import XLOG_DATA, XLOG_DATA_HEADER, Keepalive
from .pgoutput.decoder import decode, relation_oid
from .pgoutput.errors import ProtocolError
from .pgoutput.lsn import Lsn
from .pgoutput.messages import (
    Begin,
    Commit,
    LogicalMessage,
    Message,
    Relation,
    Truncate,
    Type,
)
from .replication.progress import Progress
from .replication.publications import TableName
from .tables import Table

logger = logging.getLogger(__name__)

MAX_CHUNK_BYTES = 8 * 1024 * 1024
"""Most bytes of rows handed over at once, so that wide rows fit in memory too."""

_ROWS = {
    ord("I"): EventType.INSERT,
    ord("U"): EventType.UPDATE,
    ord("D"): EventType.DELETE,
}

_NOTHING = Lsn(0)


class _Unwanted(dict[int, None]):
    def __missing__(self, oid: int) -> None:
        return None


_UNWANTED = _Unwanted()


class Feed:
    """
    Reads one connection's messages and delivers their events.

    What the server told of relations and types lives here, and dies with the
    connection.

    Args:
        config: of the stream.
        models: of its database.
        delivery: gets the events.
        progress: learns what was received and what is done.
        done: transactions that committed up to here were done before.

    Attributes:
        reply_requested: the server wants to hear from us.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        models: ModelTables,
        delivery: Delivery,
        progress: Progress,
        done: Lsn = _NOTHING,
    ) -> None:
        self.reply_requested = False
        self._config = config
        self._subscriptions = Subscriptions(config.subscriptions)
        self._models = models
        self._delivery = delivery
        self._progress = progress
        self._done = done
        self._types = ColumnTypes(models.alias)
        # None for a table that nobody subscribed to.
        self._tables: dict[int, Table | None] = {}
        # The same, or in a transaction that was done before, tables of nobody.
        self._wanted: Mapping[int, Table | None] = self._tables
        self._begin: Begin | None = None
        self._ordinal = 0
        self._events: list[Event] = []
        self._bytes = 0
        self._delivered = False  # a part of the transaction's rows
        self._heard = False  # receivers, of any of it

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun to arrive and is not done."""
        return self._begin is not None

    def read(self, batch: Iterable[bytes], *, stopped: Callable[[], bool]) -> None:
        """
        Take in CopyData payloads, in the order in which they came.

        Args:
            batch: the payloads.
            stopped: asked after each transaction; when true, the rest is left unread.

        Raises:
            ProtocolError: a payload is none of the protocol.
            ReceiverFailed: see `Delivery.deliver`. Nothing may be read after that.
        """
        tables, events = self._wanted, self._events
        limit = self._config.max_batch
        for data in batch:
            if len(data) <= XLOG_DATA_HEADER or data[0] != XLOG_DATA:
                self._keepalive(data)
                continue
            type = _ROWS.get(data[XLOG_DATA_HEADER])
            if type is None:
                self._take(decode(data, XLOG_DATA_HEADER))
                tables = self._wanted
                if self._begin is None and stopped():
                    return
                continue
            self._ordinal += 1
            try:
                table = tables[relation_oid(data, XLOG_DATA_HEADER)]
            except KeyError:
                raise ProtocolError("row", 1, "of an unknown relation") from None
            if table is None:
                continue
            if len(events) >= limit or self._bytes > MAX_CHUNK_BYTES:
                self._deliver(last=False)
            self._bytes += len(data)
            message: Any = decode(data, XLOG_DATA_HEADER)
            events.append(
                Event(type, table, self._transaction(), message, self._ordinal)
            )

    def _keepalive(self, data: bytes) -> None:
        envelope = copydata.parse(data)
        if not isinstance(envelope, Keepalive):
            raise ProtocolError("XLogData", len(data), "no message in it")
        self._progress.keepalive(envelope.end_lsn)
        self.reply_requested |= envelope.reply_requested

    def _take(self, message: Message) -> None:
        match message:
            case Begin():
                self._begin = message
                self._ordinal = 0
                self._delivered = self._heard = False
                if message.commit_lsn <= self._done:
                    self._wanted = _UNWANTED
                self._progress.begin()
            case Commit():
                if self._events or self._delivered:
                    self._deliver(last=True)
                if self._heard:
                    self._delivery.finish(message.commit_lsn)
                self._begin = None
                self._wanted = self._tables
                self._progress.finish(message.end_lsn)
            case Relation():
                self._tables[message.oid] = self._table(message)
            case Type():
                self._types.tell(message)
            case Truncate():
                self._truncate(message)
            case LogicalMessage():
                self._logical_message(message)

    def _transaction(self) -> Begin:
        if self._begin is None:
            raise ProtocolError("row", 0, "outside of a transaction")
        return self._begin

    def _table(self, relation: Relation) -> Table | None:
        name = TableName(relation.schema, relation.name)
        lineage = self._models.lineage(name, relation.oid)
        if not self._subscriptions.cover(lineage):
            if not (lineage.model or lineage.exists):
                logger.warning(
                    "The table %s is gone, and nothing tells whose it was: its changes"
                    " are not delivered. Subscribe to it by its name to get them.",
                    name,
                    extra={"stream": self._config.name},
                )
            return None
        if lineage.model:
            self._models.warn_of_misfit(
                lineage.model,
                relation.oid,
                [column.name for column in relation.columns],
            )
        return Table(
            relation,
            model=lineage.model,
            alias=self._models.alias,
            types=self._types.resolve([c.type_oid for c in relation.columns]),
        )

    def _truncate(self, message: Truncate) -> None:
        for oid in message.relation_oids:
            self._ordinal += 1
            if oid not in self._tables:
                raise ProtocolError("Truncate", 6, "of an unknown relation")
            if table := self._wanted[oid]:
                self._events.append(
                    Event(
                        EventType.TRUNCATE,
                        table,
                        self._transaction(),
                        message,
                        self._ordinal,
                    )
                )

    def _logical_message(self, message: LogicalMessage) -> None:
        wanted = self._config.messages
        if not (message.prefix in wanted or "*" in wanted):
            return
        if message.transactional:
            if self._wanted is _UNWANTED:
                return
            # What came before it in the transaction is heard of before it.
            if self._events:
                self._deliver(last=False)
            self._delivery.deliver_message(message)
            self._heard = True
            return
        # Its LSN is its end, where the COMMIT of the next transaction may lie.
        position = Lsn(message.lsn - 1)
        if position > self._done:
            self._delivery.deliver_message(message)
            self._delivery.finish(position, counted=False)

    def _deliver(self, *, last: bool) -> None:
        self._delivery.deliver(self._events, last=last)
        self._delivered = self._heard = True
        self._events.clear()
        self._bytes = 0
