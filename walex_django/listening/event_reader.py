"""Conversion of one connection's messages to events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from typing import Any

from walex_django import log
from walex_django.conf import configs, stored
from walex_django.conf.stream import StreamConfig
from walex_django.context import frames
from walex_django.delivery.dispatch import Delivery
from walex_django.delivery.middleware import MiddlewarePipe
from walex_django.events.catalogue import ModelTables
from walex_django.events.event import BeginWithContext, Event, EventType
from walex_django.handlers import registry
from walex_django.messages import OWN_PREFIX
from walex_django.pgoutput import copydata
from walex_django.pgoutput.copydata import XLOG_DATA, XLOG_DATA_HEADER, Keepalive
from walex_django.pgoutput.decoder import decode, relation_oid
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import (
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
from walex_django.replication.progress import Progress

from .partition_keys import Place
from .subscribed_tables import NoTables, SubscribedTable, SubscribedTables

logger = log.logger(__name__)

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""The size limit of a batch, which bounds memory use even with wide rows."""

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

_BOUNDARIES = frozenset({Begin, Commit, LogicalMessage})

_NO_POSITION = Lsn(0)

_NO_TABLES = NoTables()


class EventReader:
    """
    Reads one connection's messages and delivers their events.

    A reader also stores the relations and types that the server has described, which
    are valid for this connection only.

    Args:
        config: The stream's configuration.
        models: The models of the stream's database.
        delivery: The delivery that calls the receivers.
        progress: The stream's progress, which the reader updates.
        done: The position up to which transactions have been delivered already.
        wake: A callable that makes the reading thread call `read_delivered`; called
            from other threads.
        reconfigured: A callable that is called with each new configuration.
        described: A callable that is called when the server has described a table.

    Attributes:
        reply_requested: Whether the server has requested a status update.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        models: ModelTables,
        delivery: Delivery,
        progress: Progress,
        done: Lsn = _NO_POSITION,
        wake: Callable[[], None] = lambda: None,
        reconfigured: Callable[[StreamConfig], None] = lambda _: None,
        described: Callable[[], None] = lambda: None,
    ) -> None:
        self.reply_requested = False
        self._models = models
        self._delivery = delivery
        self._progress = progress
        self._done = done
        self._reconfigured = reconfigured
        self._described = described
        self._tables = SubscribedTables(models)
        # `_NO_TABLES` in a transaction that has been delivered already.
        self._by_oid = self._tables.by_oid
        self._begin: Begin | None = None
        # The BEGIN of the transaction that is being passed to the middleware.
        self._received: Begin | None = None
        self._finished = _NO_POSITION
        self._ordinal = 0
        self._events: list[Event] = []
        self._bytes = 0
        self._delivered = False  # whether rows of the transaction were delivered
        self._called = False  # whether receivers were called in the transaction
        middleware = config.middleware()
        self._pipe = MiddlewarePipe(middleware, wake) if middleware else None
        self._base = config
        self._generation = configs.generation
        self._configure(configs.follow(config))

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is being delivered."""
        return self._begin is not None

    @property
    def last_begin(self) -> Begin | None:
        """The BEGIN of a transaction that has been received in part."""
        return self._begin if self._pipe is None else self._received

    @property
    def is_waiting(self) -> bool:
        """Whether the middleware holds messages of whole transactions."""
        return self._pipe is not None and self._pipe.expected > self._finished

    def read(self, batch: Iterable[bytes], *, stopped: Callable[[], bool]) -> None:
        """
        Read CopyData payloads, in the order of their arrival.

        Args:
            batch: The payloads.
            stopped: A callable that is called after each transaction; when it returns
                true, the rest of the batch is left unread.

        Raises:
            ProtocolError: A payload is not a valid message.
            MiddlewareFailed: The middleware raised an exception.
            ReceiverFailed: See `Delivery.deliver`. The reader must not be used after
                that.
        """
        by_oid, pipe = self._by_oid, self._pipe
        for data in batch:
            if len(data) <= XLOG_DATA_HEADER or data[0] != XLOG_DATA:
                self._keepalive(data)
                continue
            type = _ROWS.get(data[XLOG_DATA_HEADER])
            if type is None or pipe is not None:
                message = decode(data, XLOG_DATA_HEADER)
                if pipe is None:
                    self._process(message)
                else:
                    self._pass_on(pipe, message)
                    self.read_delivered(stopped=stopped)
                by_oid = self._by_oid
                if self._begin is None and stopped():
                    return
                continue
            # Rows of other tables are dropped before their columns are parsed.
            self._ordinal += 1
            subscribed = by_oid[relation_oid(data, XLOG_DATA_HEADER)]
            if subscribed is not None:
                row: Any = decode(data, XLOG_DATA_HEADER)
                self._add_row(type, subscribed, row, len(data))

    def read_delivered(self, *, stopped: Callable[[], bool]) -> bool:
        """
        Read the messages that the middleware has delivered.

        Args:
            stopped: See `read`.

        Returns:
            Whether there were any.
        """
        found = False
        while self._pipe and (message := self._pipe.next()) is not None:
            found = True
            if isinstance(message, Insert | Update | Delete):
                self._ordinal += 1
                subscribed = self._by_oid[message.relation_oid]
                if subscribed is not None:
                    type = _TYPES[message.__class__]
                    self._add_row(type, subscribed, message, _size(message))
            else:
                self._process(message)
            if self._begin is None and stopped():
                break
        return found

    def close(self) -> None:
        """Accept no more messages from the middleware."""
        if self._pipe:
            self._pipe.close()

    def _pass_on(self, pipe: MiddlewarePipe, message: Message) -> None:
        if message.__class__ in _BOUNDARIES:
            match message:
                case Begin():
                    self._received = message
                case Commit():
                    self._received = None
                    pipe.expect(message.end_lsn)
                case LogicalMessage(transactional=False):
                    pipe.expect(message.lsn)
        self._progress.begin()
        pipe.pass_on(message)

    def _add_row(
        self,
        type: EventType,
        subscribed: SubscribedTable,
        message: RowMessage,
        size: int,
    ) -> None:
        """Add a row's event to the current batch, unless a filter drops it."""
        table, filters = subscribed
        if filters and subscribed.drops(message):
            return
        begin = self._begin
        if begin is None:
            begin = self._transaction()
        event = Event(type, table, begin, message, self._ordinal)
        if filters and not subscribed.accepts(event):
            return
        events = self._events
        if len(events) >= self._max_batch or self._bytes > MAX_BATCH_BYTES:
            self._deliver(last=False)
        self._bytes += size
        events.append(event)

    def _keepalive(self, data: bytes) -> None:
        envelope = copydata.parse(data)
        if not isinstance(envelope, Keepalive):
            raise ProtocolError("XLogData", len(data), "contains no message")
        self._progress.keepalive(envelope.end_lsn)
        self.reply_requested |= envelope.reply_requested

    def _process(self, message: Message) -> None:
        match message:
            case Begin():
                self._begin_transaction(message)
            case Commit():
                self._commit(message)
            case Relation():
                self._models.await_commit(self._transaction().xid)
                self._tables.add(message, self._place())
                self._described()
            case Type():
                self._tables.add_type(message)
            case Truncate():
                self._truncate(message)
            case LogicalMessage():
                self._logical_message(message)

    def _begin_transaction(self, message: Begin) -> None:
        if self._generation != configs.generation:
            self._follow_configuration()
        self._begin = message
        self._ordinal = 0
        self._delivered = self._called = False
        if message.commit_lsn <= self._done:
            self._by_oid = _NO_TABLES
        self._progress.begin()

    def _commit(self, message: Commit) -> None:
        if self._events or self._delivered:
            self._deliver(last=True)
        if self._called:
            self._delivery.finish(message.commit_lsn)
        self._begin = None
        self._by_oid = self._tables.by_oid
        self._finished = message.end_lsn
        more = self._pipe is not None and self._pipe.expected > message.end_lsn
        self._progress.finish(message.end_lsn, more=more)
        # This transaction may have changed the settings; the next may be far away.
        if self._generation != configs.generation:
            self._follow_configuration()

    def _transaction(self) -> Begin:
        if self._begin is None:
            raise ProtocolError("row", 0, "outside a transaction")
        return self._begin

    def _place(self) -> Place:
        """Return the current position in the order of changes."""
        return self._transaction().commit_lsn, self._ordinal

    def _follow_configuration(self) -> None:
        """Apply the stream's current configuration if it has changed."""
        self._generation = configs.generation
        config = configs.follow(self._base)
        if config != self._config:
            self._configure(config)
            self._reconfigured(config)

    def _configure(self, config: StreamConfig) -> None:
        self._config = config
        self._max_batch = config.max_batch
        registry.load(config.modules)
        self._delivery.configure(config)
        self._tables.configure(config)

    def _truncate(self, message: Truncate) -> None:
        self._tables.truncate(self._place())
        for oid in message.relation_oids:
            self._ordinal += 1
            if subscribed := self._by_oid[oid]:
                event = Event(
                    EventType.TRUNCATE,
                    subscribed.table,
                    self._transaction(),
                    message,
                    self._ordinal,
                )
                if subscribed.accepts(event):
                    self._events.append(event)

    def _logical_message(self, message: LogicalMessage) -> None:
        if not message.transactional and self._generation != configs.generation:
            self._follow_configuration()
        if message.prefix.startswith(OWN_PREFIX):
            self._own_message(message)
        else:
            self._message(message)
        if self._pipe and not message.transactional:
            self._finished = max(self._finished, message.lsn)
            more = self._pipe.expected > message.lsn
            self._progress.finish(_NO_POSITION, more=more)

    def _message(self, message: LogicalMessage) -> None:
        prefixes = self._config.messages
        if not (message.prefix in prefixes or "*" in prefixes):
            return
        if message.transactional:
            if self._by_oid is _NO_TABLES:
                return
            # Earlier events of the transaction are delivered before the message.
            if self._events:
                self._deliver(last=False)
            self._delivery.deliver_message(message)
            self._called = True
            return
        # The LSN of a message is its end, where the next transaction's COMMIT may be.
        position = Lsn(message.lsn - 1)
        if position > self._done:
            self._delivery.deliver_message(message)
            self._delivery.finish(position, is_transaction=False)

    def _own_message(self, message: LogicalMessage) -> None:
        """Process a message that walex_django itself has written to the WAL."""
        content: object = None
        with suppress(ValueError, RecursionError):
            content = json.loads(message.content)
        if not isinstance(content, dict):
            logger.warning(
                "Ignoring the message %s at %s: its content is not a JSON object.",
                *(message.prefix, message.lsn),
                extra={"lsn": str(message.lsn)},
            )
        elif message.prefix == frames.PREFIX and message.transactional:
            begin = self._transaction()
            self._begin = BeginWithContext(
                begin.commit_lsn, begin.timestamp, begin.xid, content
            )
        elif message.prefix == stored.PREFIX and self._is_addressed(content):
            stored.load(self._config.name)

    def _is_addressed(self, content: dict[str, Any]) -> bool:
        return content.get("stream") == self._config.name

    def _deliver(self, *, last: bool) -> None:
        self._delivery.deliver(self._events, last=last)
        self._delivered = self._called = True
        self._events.clear()
        self._bytes = 0


def _size(message: RowMessage) -> int:
    """Return the approximate size of a row in bytes."""
    rows = [getattr(message, name, None) or () for name in ("new", "old", "key")]
    return sum(len(value) for value in chain(*rows) if isinstance(value, bytes))
