"""Events to receivers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from django.db import close_old_connections, reset_queries
from django.db.models import Model

from .events import Event, EventType
from .pgoutput.messages import LogicalMessage
from .signals import (
    ChangeSignal,
    Receiver,
    post_db_change,
    post_db_delete,
    post_db_insert,
    post_db_message,
    post_db_transaction,
    post_db_truncate,
    post_db_update,
)

SIGNALS: dict[EventType, ChangeSignal] = {
    EventType.INSERT: post_db_insert,
    EventType.UPDATE: post_db_update,
    EventType.DELETE: post_db_delete,
    EventType.TRUNCATE: post_db_truncate,
}

_RENEW_CONNECTIONS_EVERY = 1.0  # seconds


class ReceiverFailed(Exception):
    """
    A receiver raised; the cause says what.

    Attributes:
        receiver: its dotted name.
        subject: id of the event, or what else it was called for.
    """

    def __init__(self, receiver: Receiver, subject: str) -> None:
        self.receiver = _name(receiver)
        self.subject = subject
        super().__init__(f"The receiver {self.receiver} failed at {subject}")


class Delivery:
    """
    Hands the events of one stream to the receivers, in this thread.

    Args:
        stream: name of the stream.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._renewed = 0.0

    def deliver(self, events: Sequence[Event], *, last: bool) -> None:
        """
        Send the signals of some events of one transaction, and return when it is done.

        Args:
            events: in order.
            last: these are the transaction's last.

        Raises:
            ReceiverFailed: a receiver raised; those after it were not called.
        """
        self._renew_connections()
        stream = self.stream
        # A receiver connected meanwhile hears from the next call on.
        known: dict[tuple[EventType, type[Model] | None], list[Any]] = {}
        for event in events:
            model = event.model
            calls = known.get((event.type, model))
            if calls is None:
                calls = known[event.type, model] = [
                    (signal, receiver)
                    for signal in (SIGNALS[event.type], post_db_change)
                    for receiver in signal.receivers_of(model)
                ]
            for signal, receiver in calls:
                try:
                    receiver(signal=signal, sender=model, event=event, stream=stream)
                except Exception as error:
                    raise ReceiverFailed(receiver, f"event {event.id}") from error
        self._send(
            post_db_transaction,
            f"transaction {events[0].lsn}",
            events=list(events),
            last=last,
        )

    def deliver_message(self, message: LogicalMessage) -> None:
        """
        Send the signal of a logical message.

        Raises:
            ReceiverFailed: a receiver raised; those after it were not called.
        """
        self._renew_connections()
        self._send(
            post_db_message,
            f"message {message.prefix!r} {message.lsn}",
            message=message,
        )

    def _send(self, signal: ChangeSignal, subject: str, **named: Any) -> None:
        for receiver in signal.receivers_of(None):
            try:
                receiver(signal=signal, sender=None, stream=self.stream, **named)
            except Exception as error:
                raise ReceiverFailed(receiver, subject) from error

    def _renew_connections(self) -> None:
        """Do for Django's connections what a request does, but not for each event."""
        now = time.monotonic()
        if now - self._renewed > _RENEW_CONNECTIONS_EVERY:
            self._renewed = now
            reset_queries()
            close_old_connections()


def _name(receiver: Receiver) -> str:
    # async_to_sync keeps the coroutine function it wraps in `awaitable`.
    function = getattr(receiver, "awaitable", receiver)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"
