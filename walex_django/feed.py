"""The messages of one connection to events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

from . import conf, handlers, log, runtime
from .catalogue import ModelTables
from .column_types import ColumnTypes
from .delivery import Delivery
from .events import Event, EventType, Explained
from .filters import OWN_APP, Subscriptions
from .middleware import Detour
from .pgoutput import copydata
from .pgoutput.copydata import XLOG_DATA, XLOG_DATA_HEADER, Keepalive
from .pgoutput.decoder import decode, relation_oid
from .pgoutput.errors import ProtocolError
from .pgoutput.lsn import Lsn
from .pgoutput.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Relation,
    RowMessage,
    Truncate,
    Type,
    Update,
)
from .replication.progress import Progress
from .replication.publications import TableName
from .stream_config import StreamConfig
from .tables import Table

logger = log.logger(__name__)

MAX_CHUNK_BYTES = 8 * 1024 * 1024
"""Most bytes of rows handed over at once, so that wide rows fit in memory too."""

_ROWS = {
    ord("I"): EventType.INSERT,
    ord("U"): EventType.UPDATE,
    ord("D"): EventType.DELETE,
}

_TYPES = {
    Insert: EventType.INSERT,
    Update: EventType.UPDATE,
    Delete: EventType.DELETE,
}

_NOTHING = Lsn(0)
_OWN_PREFIX = f"{OWN_APP}."
_CONTEXT = f"{OWN_APP}.context"


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
        wake: makes the reader `settle`, from another thread.
        reconfigured: called when the configuration has changed.

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
        wake: Callable[[], None] = lambda: None,
        reconfigured: Callable[[StreamConfig], None] = lambda _: None,
    ) -> None:
        self.reply_requested = False
        self._models = models
        self._delivery = delivery
        self._progress = progress
        self._done = done
        self._reconfigured = reconfigured
        self._types = ColumnTypes(models.alias)
        self._relations: dict[int, Relation] = {}
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
        middleware = config.message_middleware
        self._detour = Detour(middleware, wake) if middleware else None
        self._base = config
        self._generation = conf.generation
        self._configure(conf.follow(config))

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun to be delivered and is not done."""
        return self._begin is not None

    def read(self, batch: Iterable[bytes], *, stopped: Callable[[], bool]) -> None:
        """
        Take in CopyData payloads, in the order in which they came.

        Args:
            batch: the payloads.
            stopped: asked after each transaction; when true, the rest is left unread.

        Raises:
            ProtocolError: a payload is none of the protocol.
            MiddlewareFailed: it raised.
            ReceiverFailed: see `Delivery.deliver`. Nothing may be read after that.
        """
        if self._detour:
            self._read_around(self._detour, batch, stopped)
            return
        tables, events, limit = self._wanted, self._events, self._max_batch
        for data in batch:
            if len(data) <= XLOG_DATA_HEADER or data[0] != XLOG_DATA:
                self._keepalive(data)
                continue
            type = _ROWS.get(data[XLOG_DATA_HEADER])
            if type is None:
                self._take(decode(data, XLOG_DATA_HEADER))
                tables, limit = self._wanted, self._max_batch
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
            message: Any = decode(data, XLOG_DATA_HEADER)
            if table.filters and not self._wants(type, table, message):
                continue
            if len(events) >= limit or self._bytes > MAX_CHUNK_BYTES:
                self._deliver(last=False)
            self._bytes += len(data)
            events.append(
                Event(type, table, self._transaction(), message, self._ordinal)
            )

    def settle(self, *, stopped: Callable[[], bool]) -> bool:
        """
        Take in what the middleware has delivered since, as `read` does.

        Returns whether there was anything.
        """
        found = False
        while self._detour and (message := self._detour.next()) is not None:
            found = True
            self._take_any(message)
            if self._begin is None and stopped():
                break
        return found

    def close(self) -> None:
        """Take nothing more from the middleware."""
        if self._detour:
            self._detour.close()

    def _read_around(
        self, detour: Detour, batch: Iterable[bytes], stopped: Callable[[], bool]
    ) -> None:
        for data in batch:
            if len(data) <= XLOG_DATA_HEADER or data[0] != XLOG_DATA:
                self._keepalive(data)
                continue
            message = decode(data, XLOG_DATA_HEADER)
            match message:
                case Commit():
                    detour.expect(message.end_lsn)
                case LogicalMessage(transactional=False):
                    detour.expect(message.lsn)
            self._progress.begin()
            detour.pass_on(message)
            self.settle(stopped=stopped)
            if self._begin is None and stopped():
                return

    # What `read` does with a row, where a call more for each would cost.
    def _take_any(self, message: Message) -> None:
        if not isinstance(message, Insert | Update | Delete):
            self._take(message)
            return
        self._ordinal += 1
        try:
            table = self._wanted[message.relation_oid]
        except KeyError:
            raise ProtocolError("row", 1, "of an unknown relation") from None
        type = _TYPES[message.__class__]
        if table is None or (table.filters and not self._wants(type, table, message)):
            return
        if len(self._events) >= self._max_batch or self._bytes > MAX_CHUNK_BYTES:
            self._deliver(last=False)
        self._bytes += _size(message)
        event = Event(type, table, self._transaction(), message, self._ordinal)
        self._events.append(event)

    def _wants(self, type: EventType, table: Table, message: RowMessage) -> bool:
        """Return whether a row passes the filters of its table."""
        if any(chosen.drops(message) for chosen in table.filters):
            return False
        conditions = [chosen for chosen in table.filters if chosen.where]
        if not conditions:
            return True
        event = Event(type, table, self._transaction(), message, self._ordinal)
        return all(chosen.holds(event) for chosen in conditions)

    def _keepalive(self, data: bytes) -> None:
        envelope = copydata.parse(data)
        if not isinstance(envelope, Keepalive):
            raise ProtocolError("XLogData", len(data), "no message in it")
        self._progress.keepalive(envelope.end_lsn)
        self.reply_requested |= envelope.reply_requested

    def _take(self, message: Message) -> None:
        match message:
            case Begin():
                self._begin_transaction(message)
            case Commit():
                self._commit(message)
            case Relation():
                self._models.await_commit(self._transaction().xid)
                self._relations[message.oid] = message
                self._tables[message.oid] = self._table(message)
            case Type():
                self._types.tell(message)
            case Truncate():
                self._truncate(message)
            case LogicalMessage():
                self._logical_message(message)

    def _begin_transaction(self, message: Begin) -> None:
        if self._generation != conf.generation:
            self._follow_configuration()
        self._begin = message
        self._ordinal = 0
        self._delivered = self._heard = False
        if message.commit_lsn <= self._done:
            self._wanted = _UNWANTED
        self._progress.begin()

    def _commit(self, message: Commit) -> None:
        if self._events or self._delivered:
            self._deliver(last=True)
        if self._heard:
            self._delivery.finish(message.commit_lsn)
        self._begin = None
        self._wanted = self._tables
        more = self._detour is not None and self._detour.expected > message.end_lsn
        self._progress.finish(message.end_lsn, more=more)
        # It may have brought a change itself, and another may not come for long.
        if self._generation != conf.generation:
            self._follow_configuration()

    def _transaction(self) -> Begin:
        if self._begin is None:
            raise ProtocolError("row", 0, "outside of a transaction")
        return self._begin

    def _follow_configuration(self) -> None:
        """Go on with what the stream is configured to since."""
        self._generation = conf.generation
        config = conf.follow(self._base)
        if config != self._config:
            self._configure(config)
            self._reconfigured(config)

    def _configure(self, config: StreamConfig) -> None:
        self._config = config
        self._max_batch = config.max_batch
        self._subscriptions = Subscriptions(config.subscriptions)
        self._filters = [
            (Subscriptions([entry]), chosen) for entry, chosen in config.filters.items()
        ]
        handlers.load(config.modules)
        self._delivery.configure(config)
        for oid, relation in self._relations.items():
            self._tables[oid] = self._table(relation)

    def _table(self, relation: Relation) -> Table | None:
        name = TableName(relation.schema, relation.name)
        lineage = self._models.lineage(name, relation.oid)
        if not self._subscriptions.cover(lineage):
            if not (lineage.model or lineage.exists):
                logger.warning(
                    "The table %s is gone, and nothing tells whose it was: its changes"
                    " are not delivered. Subscribe to it by its name to get them.",
                    name,
                    extra={"table": str(name)},
                )
            return None
        if lineage.model:
            self._models.warn_of_misfit(
                lineage.model,
                relation.oid,
                [column.name for column in relation.columns],
            )
        table = Table(
            relation,
            model=lineage.model,
            lineage=lineage,
            alias=self._models.alias,
            types=self._types.resolve([c.type_oid for c in relation.columns]),
            is_whole=relation.replica_identity != "f"
            or self._models.tells_whole_rows(relation.oid),
        )
        filters = [chosen for tables, chosen in self._filters if tables.cover(lineage)]
        table.filters = [
            made for chosen in filters if (made := chosen.for_table(table))
        ]
        table.sensitive = frozenset(
            chain.from_iterable(each.sensitive_columns(table) for each in filters)
        )
        return table

    def _truncate(self, message: Truncate) -> None:
        for oid in message.relation_oids:
            self._ordinal += 1
            if oid not in self._tables:
                raise ProtocolError("Truncate", 6, "of an unknown relation")
            if table := self._wanted[oid]:
                begin = self._transaction()
                event = Event(
                    *(EventType.TRUNCATE, table, begin, message, self._ordinal)
                )
                if all(chosen.holds(event) for chosen in table.filters):
                    self._events.append(event)

    def _logical_message(self, message: LogicalMessage) -> None:
        if not message.transactional and self._generation != conf.generation:
            self._follow_configuration()
        if message.prefix.startswith(_OWN_PREFIX):
            self._own_message(message)
        else:
            self._message(message)
        if self._detour and not message.transactional:
            more = self._detour.expected > message.lsn
            self._progress.finish(_NOTHING, more=more)

    def _message(self, message: LogicalMessage) -> None:
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

    def _own_message(self, message: LogicalMessage) -> None:
        """Take in what walex_django itself has written to the log."""
        content: object = None
        with suppress(ValueError, RecursionError):
            content = json.loads(message.content)
        if not isinstance(content, dict):
            logger.warning(
                "The message %s at %s is ignored: it holds no JSON object.",
                *(message.prefix, message.lsn),
                extra={"lsn": str(message.lsn)},
            )
        elif message.prefix == _CONTEXT and message.transactional:
            begin = self._transaction()
            self._begin = Explained(
                begin.commit_lsn, begin.timestamp, begin.xid, content
            )
        elif message.prefix == runtime.PREFIX and self._is_meant(content):
            runtime.load(self._config.name)

    def _is_meant(self, content: dict[str, Any]) -> bool:
        return content.get("stream") == self._config.name

    def _deliver(self, *, last: bool) -> None:
        self._delivery.deliver(self._events, last=last)
        self._delivered = self._heard = True
        self._events.clear()
        self._bytes = 0


def _size(message: RowMessage) -> int:
    """Return about how many bytes a row has."""
    rows = [getattr(message, name, None) or () for name in ("new", "old", "key")]
    return sum(len(value) for value in chain(*rows) if isinstance(value, bytes))
