"""Events to receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain
from operator import attrgetter
from threading import Event as Flag
from typing import Any, TypeAlias, TypeGuard

from django.db.models import Model

from walex_django import log
from walex_django.conf.stream import StreamConfig
from walex_django.events import masking
from walex_django.events.event import Event, EventType
from walex_django.events.table import Table
from walex_django.filters import TableFilter
from walex_django.handlers import registry
from walex_django.handlers.functions import Function
from walex_django.handlers.registry import Handler
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import LogicalMessage
from walex_django.signals import (
    ChangeSignal,
    Receiver,
    StreamSignal,
    post_db_change,
    post_db_delete,
    post_db_insert,
    post_db_message,
    post_db_transaction,
    post_db_truncate,
    post_db_update,
    receiver_name,
)

from . import parking
from .counts import Counts
from .pool import Pool
from .transactions import ConnectionBroken, UnitOfWork, renew_connections

logger = log.logger(__name__)

SIGNALS: dict[EventType, ChangeSignal] = {
    EventType.INSERT: post_db_insert,
    EventType.UPDATE: post_db_update,
    EventType.DELETE: post_db_delete,
    EventType.TRUNCATE: post_db_truncate,
}

Group: TypeAlias = tuple[EventType, Table]
Channel: TypeAlias = StreamSignal | Handler | Function
"""Through what a call is made; has a name."""

RAISED = (Exception, SystemExit, asyncio.CancelledError)
"""What a receiver may raise and be tried again; the last two end a thread silently."""


class ReceiverFailed(Exception):
    """
    A receiver raised to the last, and ``ON_ERROR`` is ``"stop"``; the cause says what.

    Attributes:
        receiver: its dotted name.
        subject: id of the event, or place of the message, that it was called for.
        traceback: of what it raised, without sensitive values.
    """

    def __init__(self, receiver: str, subject: str, traceback: str = "") -> None:
        self.receiver, self.subject = receiver, subject
        self.traceback = traceback
        super().__init__(f"The receiver {receiver} failed at {subject}")


class Interrupted(Exception):
    """We are to stop, and a receiver's call still waits to be made again."""


class Delivery:
    """
    Hands the events of one stream to the receivers, in this thread.

    A receiver that raises is called again, that one alone, and after the last retry the
    stream's ``ON_ERROR`` decides. Meanwhile the receivers after it wait: nobody hears
    of a change before those who are to hear of it first.

    Args:
        config: of the stream.
        stopped: set when the wait for a retry is to end.
        work: what the calls are part of.
        counts: where it is counted.
    """

    def __init__(
        self, config: StreamConfig, *, stopped: Flag, work: UnitOfWork, counts: Counts
    ) -> None:
        self._config = config
        self._counts = counts
        self._stopped = stopped
        self._work = work
        self._wrap = work.wrap
        self._pool = Pool()
        self._generation = registry.generation
        self._handlers: dict[Group, list[tuple[Handler, TableFilter | None]]] = {}

    def configure(self, config: StreamConfig) -> None:
        """Go on with another configuration of the stream."""
        self._config = config

    def close(self) -> None:
        """End the threads of functions; what was in hand may not come again."""
        self._pool.close()
        self._counts.delivering = None

    def deliver(self, events: Sequence[Event], *, last: bool) -> None:
        """
        Send the signals of some events of one transaction, and return when it is done.

        Args:
            events: in order; none where ``last`` is all there is to say.
            last: these are the transaction's last.

        Raises:
            ReceiverFailed, Interrupted: it is not done, and may not be acknowledged.
            django.db.Error: a failed call could not be parked, or the database was
                lost.
        """
        self._work.begin()
        stream, counts = self._config.name, self._counts
        if events:
            counts.delivering = counts.last = events[-1]
        # A receiver connected meanwhile hears from the next call on.
        known: dict[Group, tuple[list[Any], list[Event]]] = {}
        for event in events:
            group = event.type, event._table
            model = event._table.model
            found = known.get(group)
            if found is None:
                found = known[group] = self._receivers(event.type, model), []
            calls, grouped = found
            grouped.append(event)
            for signal, receiver, call in calls:
                try:
                    call(signal=signal, sender=model, event=event, stream=stream)
                except RAISED as error:
                    self._try_again(signal, receiver, model, {"event": event}, error)
        for (type, table), (_, grouped) in known.items():
            counts.events[table.name, type] += len(grouped)
        if registry.handlers:
            self._handle({group: grouped for group, (_, grouped) in known.items()})
        for receiver in post_db_transaction.receivers_of(None, stream):
            self._call(post_db_transaction, receiver, {"events": events, "last": last})

    def _receivers(
        self, type: EventType, model: type[Model] | None
    ) -> list[tuple[StreamSignal, Receiver, Receiver]]:
        wrap = self._wrap
        return [
            (signal, receiver, wrap(receiver) if wrap else receiver)
            for signal in (SIGNALS[type], post_db_change)
            for receiver in signal.receivers_of(model, self._config.name)
        ]

    def _handle(self, grouped: Mapping[Group, list[Event]]) -> None:
        """Call the handlers of these events, and their functions beside them."""
        found = self._wanted(grouped)
        running: list[tuple[Function, Event, Future[None]]] = []
        try:
            for handler in sorted(found, key=attrgetter("number")):
                if handler.functions:
                    running += self._begin_functions(handler, found[handler])
                self._call(handler, handler, {"events": found[handler]})
            for function, event, future in running:
                if (error := future.exception()) is not None:
                    if not isinstance(error, RAISED):
                        raise error
                    self._try_again(function, function, None, {"event": event}, error)
        finally:
            for *_, future in running:
                future.cancel()

    def _wanted(self, grouped: Mapping[Group, list[Event]]) -> dict[Handler, list[Any]]:
        """Return what each handler gets, in the order of the events."""
        found: dict[Handler, list[list[Event]]] = {}
        for group, events in grouped.items():
            for handler, chosen in self._handlers_of(group):
                wanted = list(filter(chosen.passes, events)) if chosen else events
                if wanted:
                    found.setdefault(handler, []).append(wanted)
        return {
            handler: parts[0]
            if len(parts) == 1
            else sorted(chain(*parts), key=attrgetter("ordinal"))
            for handler, parts in found.items()
        }

    def _begin_functions(
        self, handler: Handler, events: Sequence[Event]
    ) -> Iterator[tuple[Function, Event, Future[None]]]:
        """Hand tasks over, and let the other functions run."""
        for event in events:
            for function in handler.functions:
                if function.is_task:
                    self._call(function, function, {"event": event})
                else:
                    yield function, event, self._pool.submit(function, event)

    def _handlers_of(self, group: Group) -> list[tuple[Handler, TableFilter | None]]:
        if self._generation != registry.generation:
            self._generation = registry.generation
            self._handlers.clear()
        found = self._handlers.get(group)
        if found is None:
            if len(self._handlers) >= _MOST_GROUPS:
                self._handlers.clear()  # the server describes its tables ever again
            type, table = group
            found = self._handlers[group] = [
                (handler, handler.filter.for_table(table))
                for handler in list(registry.handlers.values())
                if type in handler.types
                and handler.stream in {None, self._config.name}
                and table.lineage is not None
                and handler.covers(table.lineage)
            ]
        return found

    def deliver_message(self, message: LogicalMessage) -> None:
        """
        Send the signal of a logical message; raises as `deliver` does.

        Args:
            message: one that the stream asks for.
        """
        self._work.begin()
        for receiver in post_db_message.receivers_of(None, self._config.name):
            self._call(post_db_message, receiver, {"message": message})

    def finish(self, position: Lsn, counted: bool = True) -> None:
        """
        Tell that all of a transaction was delivered, or a message outside of them.

        Args:
            position: of its COMMIT, or within the message.
            counted: it was a transaction.

        Raises:
            SlotInUse, django.db.Error: it may not be acknowledged.
        """
        self._work.commit(position, counted)
        self._counts.transactions += counted
        self._counts.delivering = None

    def _call(
        self, signal: Channel, receiver: Receiver, arguments: dict[str, Any]
    ) -> None:
        call = self._wrap(receiver) if self._wrap else receiver
        try:
            call(
                signal=signal, sender=None, stream=self._config.name, **_own(arguments)
            )
        except RAISED as error:
            self._try_again(signal, receiver, None, arguments, error)

    def _again(self, receiver: Receiver) -> Receiver:
        """Return what makes a call again, in the thread where it was made."""
        if _runs_in_pool(receiver):
            return lambda event, **_: self._pool.submit(receiver, event).result()
        return self._wrap(receiver) if self._wrap else receiver

    def _require_intact(
        self, receiver: Receiver, arguments: dict[str, Any], error: BaseException
    ) -> None:
        # What fails in another thread was no part of the database transaction.
        if not _runs_in_pool(receiver):
            self._work.require_intact(receiver, arguments, error)

    def _try_again(
        self,
        signal: Channel,
        receiver: Receiver,
        sender: type[Model] | None,
        arguments: dict[str, Any],
        error: BaseException,
    ) -> None:
        config = self._config
        call = self._again(receiver)
        name, subject = receiver_name(receiver), parking.subject(arguments)
        mask = masking.of_call(arguments)
        attempts, delays = 1, config.retry_delays()
        if isinstance(error, ConnectionBroken):
            attempts, delays = error.attempts, iter(())
        for delay in delays:
            self._require_intact(receiver, arguments, error)
            self._counts.retries[name] += 1
            logger.warning(
                "%s failed at %s, again in %g s: %s",
                *(name, subject, delay, mask(parking.describe(error))),
                extra={"receiver": name, "event_id": subject, "attempts": attempts},
            )
            if self._stopped.wait(delay):
                raise Interrupted from error
            # What failed may have been a connection that the server has closed.
            renew_connections()
            attempts += 1
            try:
                call(
                    signal=signal,
                    sender=sender,
                    stream=config.name,
                    **_own(arguments),
                )
            except RAISED as again:
                error = again
            else:
                return
        self._require_intact(receiver, arguments, error)
        self._counts.failures[name] += 1
        if config.on_error == "stop":
            failed = ReceiverFailed(name, subject, mask(parking.trace(error)))
            raise failed from (None if mask.is_needed else error)
        if config.on_error == "park":
            parking.park(
                stream=config.name,
                signal=signal.name,
                receiver=name,
                arguments=arguments,
                error=error,
                attempts=attempts,
            )
        told, exc_info = mask.log(error)
        logger.error(
            "%s failed %d times at %s, %s%s",
            *(name, attempts, subject, _FATES[config.on_error], told),
            exc_info=exc_info,
            extra={"receiver": name, "event_id": subject, "attempts": attempts},
        )


_MOST_GROUPS = 10_000


def _runs_in_pool(receiver: Receiver) -> TypeGuard[Function]:
    return isinstance(receiver, Function) and not receiver.is_task


def _own(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of which a call may take things out."""
    if "events" in arguments:
        return {**arguments, "events": list(arguments["events"])}
    return arguments


_FATES = {"park": "parked: see walex_replay", "skip": "skipped"}
