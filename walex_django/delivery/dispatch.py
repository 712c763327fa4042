"""Dispatch of events to receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from operator import attrgetter
from threading import Event as Flag
from typing import Any, TypeAlias, TypeGuard

from django.db.models import Model

from walex_django import log
from walex_django.conf.stream import StreamConfig
from walex_django.events import masking
from walex_django.events.event import Event, EventType
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
    receiver_key,
    receiver_name,
)

from . import parking
from .breakers import Breakers, Key
from .counts import Counts
from .handler_events import Group, HandlerEvents
from .identity import SignalOrHandler, identify
from .pool import Pool
from .transactions import ConnectionBroken, UnitOfWork, renew_connections

logger = log.logger(__name__)

SIGNALS: dict[EventType, ChangeSignal] = {
    EventType.INSERT: post_db_insert,
    EventType.UPDATE: post_db_update,
    EventType.DELETE: post_db_delete,
    EventType.TRUNCATE: post_db_truncate,
}

_RowCall: TypeAlias = tuple[StreamSignal, Receiver, Receiver]
"""A signal, its receiver, and the callable to call instead of the receiver."""

RECEIVER_ERRORS = (Exception, SystemExit, asyncio.CancelledError)
"""
The exceptions of a receiver that lead to a retry.

Uncaught, the last two would end the thread silently.
"""


class ReceiverFailed(Exception):
    """
    A receiver failed after all retries, and ``ON_ERROR`` is ``"stop"``.

    The receiver's exception is the cause, unless it may contain sensitive values.

    Attributes:
        receiver: The receiver's dotted name.
        subject: The id of the event, or the LSN of the message, of the failed call.
        traceback: The traceback of the receiver's exception, without sensitive values.
    """

    def __init__(self, receiver: str, subject: str, traceback: str = "") -> None:
        self.receiver, self.subject = receiver, subject
        self.traceback = traceback
        super().__init__(f"The receiver {receiver} failed at {subject}")


class Interrupted(Exception):
    """The stream was stopped while a receiver was waiting for its next retry."""


class Delivery:
    """
    Calls the receivers for the events of one stream, in the current thread.

    Only the receiver that raised is retried; after the last retry, the stream's
    ``ON_ERROR`` applies. The receivers after it are called only then, so receivers
    always see a change in the same order.

    Args:
        config: The stream's configuration.
        stopped: A flag that ends the wait for a retry when it is set.
        unit_of_work: The unit of work that the calls are part of.
        counts: The counts to update.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        stopped: Flag,
        unit_of_work: UnitOfWork,
        counts: Counts,
    ) -> None:
        self._config = config
        self._counts = counts
        self._stopped = stopped
        self._unit_of_work = unit_of_work
        self._wrap = unit_of_work.wrap
        self._pool = Pool()
        self._breakers = Breakers(counts.failing)
        self._handler_events = HandlerEvents(config.name)

    def configure(self, config: StreamConfig) -> None:
        """Use another configuration of the stream from now on."""
        self._config = config

    def close(self) -> None:
        """Stop the threads of functions, and report no event as being delivered."""
        self._pool.close()
        self._counts.delivering = None

    def deliver(self, events: Sequence[Event], *, last: bool) -> None:
        """
        Call all receivers for a batch of one transaction's events.

        Args:
            events: The events, in order. Empty if the transaction ends after the
                previous batch.
            last: Whether this is the transaction's last batch.

        Raises:
            ReceiverFailed: A receiver failed, and the transaction must not be
                acknowledged.
            Interrupted: The stream was stopped before a retry, and the transaction must
                not be acknowledged.
            django.db.Error: A failed call could not be parked, or the database
                connection was lost.
        """
        self._unit_of_work.begin()
        stream, counts = self._config.name, self._counts
        if events:
            counts.delivering = events[-1]
        # Receivers that are connected meanwhile are called from the next batch on.
        groups: dict[Group, tuple[list[_RowCall], list[Event]]] = {}
        for event in events:
            group = event.type, event._table
            model = event._table.model
            known = groups.get(group)
            if known is None:
                known = groups[group] = self._receivers(event.type, model), []
            calls, grouped = known
            grouped.append(event)
            for signal, receiver, call in calls:
                try:
                    call(signal=signal, sender=model, event=event, stream=stream)
                except RECEIVER_ERRORS as error:
                    self._retry(signal, receiver, model, {"event": event}, error)
                    self._watch(groups)
        for (type, table), (_, grouped) in groups.items():
            counts.events[table.name, type] += len(grouped)
        if registry.handlers:
            self._call_handlers(
                {group: grouped for group, (_, grouped) in groups.items()}
            )
        for receiver in post_db_transaction.receivers_of(None, stream):
            self._call(post_db_transaction, receiver, {"events": events, "last": last})

    def _receivers(self, type: EventType, model: type[Model] | None) -> list[_RowCall]:
        return [
            (signal, receiver, self._callable(signal, receiver))
            for signal in (SIGNALS[type], post_db_change)
            for receiver in signal.receivers_of(model, self._config.name)
        ]

    def _callable(self, signal: StreamSignal, receiver: Receiver) -> Receiver:
        """Return a callable that also notes a success if the last call failed."""
        call = self._wrap(receiver) if self._wrap else receiver
        failing = self._counts.failing
        if not failing or _key(signal, receiver) not in failing:
            return call

        def watched(**arguments: Any) -> None:
            call(**arguments)
            self._note_success(signal, receiver)

        return watched

    def _watch(
        self, groups: Mapping[Group, tuple[list[_RowCall], list[Event]]]
    ) -> None:
        """Replace the calls of failing receivers by ones that note their success."""
        if self._counts.failing:
            for calls, _ in groups.values():
                calls[:] = [
                    (signal, receiver, self._callable(signal, receiver))
                    for signal, receiver, _ in calls
                ]

    def _note_success(self, signal: SignalOrHandler, receiver: Receiver) -> None:
        if self._counts.failing:
            self._breakers.note_success(_key(signal, receiver))

    def _call_handlers(self, grouped: Mapping[Group, list[Event]]) -> None:
        """Call the handlers of these events, and run their functions concurrently."""
        batches = self._handler_events.of(grouped)
        running: list[tuple[Function, Event, Future[None]]] = []
        try:
            for handler in sorted(batches, key=attrgetter("number")):
                if handler.functions:
                    running += self._start_functions(handler, batches[handler])
                self._call(handler, handler, {"events": batches[handler]})
            for function, event, future in running:
                if (error := future.exception()) is not None:
                    if not isinstance(error, RECEIVER_ERRORS):
                        raise error
                    self._retry(function, function, None, {"event": event}, error)
                else:
                    self._note_success(function, function)
        finally:
            for *_, future in running:
                future.cancel()

    def _start_functions(
        self, handler: Handler, events: Sequence[Event]
    ) -> Iterator[tuple[Function, Event, Future[None]]]:
        """Enqueue the handler's tasks, and submit its other functions to the pool."""
        for event in events:
            for function in handler.functions:
                if function.is_task:
                    self._call(function, function, {"event": event})
                else:
                    yield function, event, self._pool.submit(function, event)

    def deliver_message(self, message: LogicalMessage) -> None:
        """
        Send the signal of a logical message.

        Args:
            message: A message with one of the prefixes in the stream's ``MESSAGES``.

        Raises:
            ReceiverFailed: See `deliver`.
            Interrupted: See `deliver`.
            django.db.Error: See `deliver`.
        """
        self._unit_of_work.begin()
        for receiver in post_db_message.receivers_of(None, self._config.name):
            self._call(post_db_message, receiver, {"message": message})

    def finish(self, position: Lsn, is_transaction: bool = True) -> None:
        """
        Commit the delivery of a transaction, or of a message outside of transactions.

        Args:
            position: The position of the COMMIT, or a position within the message.
            is_transaction: Whether a transaction was delivered, and not a message.

        Raises:
            SlotInUse: Another listener has delivered it, and it must not be
                acknowledged.
            django.db.Error: The commit failed, and it must not be acknowledged.
        """
        self._unit_of_work.commit(position, is_transaction)
        self._counts.transactions += is_transaction
        self._counts.last = self._counts.delivering or self._counts.last
        self._counts.delivering = None

    def _call(
        self, signal: SignalOrHandler, receiver: Receiver, arguments: dict[str, Any]
    ) -> None:
        call = self._wrap(receiver) if self._wrap else receiver
        try:
            call(
                signal=signal,
                sender=None,
                stream=self._config.name,
                **_copy_events(arguments),
            )
        except RECEIVER_ERRORS as error:
            self._retry(signal, receiver, None, arguments, error)
        else:
            self._note_success(signal, receiver)

    def _call_for_retry(self, receiver: Receiver) -> Receiver:
        """Return a callable for a retry; handlers' functions run in the pool again."""
        if runs_in_pool(receiver):
            return lambda event, **_: self._pool.submit(receiver, event).result()
        return self._wrap(receiver) if self._wrap else receiver

    def _require_intact(
        self, receiver: Receiver, arguments: dict[str, Any], error: BaseException
    ) -> None:
        # Functions in other threads are not part of the database transaction.
        if not runs_in_pool(receiver):
            self._unit_of_work.require_intact(receiver, arguments, error)

    def _retry(
        self,
        signal: SignalOrHandler,
        receiver: Receiver,
        sender: type[Model] | None,
        arguments: dict[str, Any],
        error: BaseException,
    ) -> None:
        config = self._config
        call = self._call_for_retry(receiver)
        name, subject = receiver_name(receiver), parking.subject(arguments)
        mask, key = masking.of_call(arguments), _key(signal, receiver)
        is_open = self._breakers.is_open(key, config.breaker_threshold)
        attempts, delays = 1, iter(()) if is_open else config.retry_delays()
        if isinstance(error, ConnectionBroken):
            attempts, delays = error.attempts, iter(())
        for delay in delays:
            self._require_intact(receiver, arguments, error)
            self._counts.retries[name] += 1
            self._breakers.note_attempt(key, name, subject, attempts)
            logger.warning(
                "%s failed at %s, retrying in %g s: %s",
                *(name, subject, delay, mask(parking.describe(error))),
                extra={"receiver": name, "event_id": subject, "attempts": attempts},
            )
            if self._stopped.wait(delay):
                raise Interrupted from error
            # The cause may have been a connection that the server has closed.
            renew_connections()
            attempts += 1
            try:
                call(
                    signal=signal,
                    sender=sender,
                    stream=config.name,
                    **_copy_events(arguments),
                )
            except RECEIVER_ERRORS as new_error:
                error = new_error
            else:
                self._note_success(signal, receiver)
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
                receiver=identify(signal, receiver, sender, config.name),
                arguments=arguments,
                error=error,
                attempts=attempts,
            )
        outcome = _OUTCOMES[config.on_error]
        extra = {"receiver": name, "event_id": subject, "attempts": attempts}
        if is_open:
            # The report of the breaker is enough for thousands of the same failure.
            logger.debug("%s failed at %s; %s", name, subject, outcome, extra=extra)
        else:
            traceback, exc_info = mask.log(error)
            times = "once" if attempts == 1 else f"{attempts} times"
            logger.error(
                "%s failed %s at %s; %s%s",
                *(name, times, subject, outcome, traceback),
                exc_info=exc_info,
                extra=extra,
            )
        self._breakers.note_failure(
            *(key, name, subject, attempts),
            threshold=config.breaker_threshold,
            on_error=config.on_error,
        )


def _key(signal: SignalOrHandler, receiver: Receiver) -> Key:
    return signal.name, receiver_key(receiver)


def runs_in_pool(receiver: Receiver) -> TypeGuard[Function]:
    """Return whether a receiver is called in a thread of the pool."""
    return isinstance(receiver, Function) and not receiver.is_task


def _copy_events(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with a copy of the list of events: receivers may change it."""
    if "events" in arguments:
        return {**arguments, "events": list(arguments["events"])}
    return arguments


_OUTCOMES = {
    "park": "the call is parked, see walex_replay",
    "skip": "the call is skipped",
}
