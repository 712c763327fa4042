"""Events to receivers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from threading import Event as Flag
from typing import Any

from django.db.models import Model

from . import parking
from .conf import StreamConfig
from .events import Event, EventType
from .pgoutput.lsn import Lsn
from .pgoutput.messages import LogicalMessage
from .signals import (
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
from .work import ConnectionBroken, Work, renew_connections

logger = logging.getLogger(__name__)

SIGNALS: dict[EventType, ChangeSignal] = {
    EventType.INSERT: post_db_insert,
    EventType.UPDATE: post_db_update,
    EventType.DELETE: post_db_delete,
    EventType.TRUNCATE: post_db_truncate,
}

RAISED = (Exception, SystemExit, asyncio.CancelledError)
"""What a receiver may raise and be tried again; the last two end a thread silently."""


class ReceiverFailed(Exception):
    """
    A receiver raised to the last, and ``ON_ERROR`` is ``"stop"``; the cause says what.

    Attributes:
        receiver: its dotted name.
        subject: id of the event, or place of the message, that it was called for.
    """

    def __init__(self, receiver: str, subject: str) -> None:
        self.receiver, self.subject = receiver, subject
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
    """

    def __init__(self, config: StreamConfig, *, stopped: Flag, work: Work) -> None:
        self._config = config
        self._stopped = stopped
        self._work = work
        self._wrap = work.wrap

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
        stream, wrap = self._config.name, self._wrap
        # A receiver connected meanwhile hears from the next call on.
        known: dict[tuple[EventType, type[Model] | None], list[Any]] = {}
        for event in events:
            model = event.model
            calls = known.get((event.type, model))
            if calls is None:
                calls = known[event.type, model] = [
                    (signal, receiver, wrap(receiver) if wrap else receiver)
                    for signal in (SIGNALS[event.type], post_db_change)
                    for receiver in signal.receivers_of(model)
                ]
            for signal, receiver, call in calls:
                try:
                    call(signal=signal, sender=model, event=event, stream=stream)
                except RAISED as error:
                    self._try_again(signal, receiver, model, {"event": event}, error)
        for receiver in post_db_transaction.receivers_of(None):
            self._call(
                post_db_transaction, receiver, {"events": list(events), "last": last}
            )

    def deliver_message(self, message: LogicalMessage) -> None:
        """
        Send the signal of a logical message; raises as `deliver` does.

        Args:
            message: one that the stream asks for.
        """
        self._work.begin()
        for receiver in post_db_message.receivers_of(None):
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

    def _call(
        self, signal: StreamSignal, receiver: Receiver, arguments: dict[str, Any]
    ) -> None:
        call = self._wrap(receiver) if self._wrap else receiver
        try:
            call(signal=signal, sender=None, stream=self._config.name, **arguments)
        except RAISED as error:
            self._try_again(signal, receiver, None, arguments, error)

    def _try_again(
        self,
        signal: StreamSignal,
        receiver: Receiver,
        sender: type[Model] | None,
        arguments: dict[str, Any],
        error: BaseException,
    ) -> None:
        config = self._config
        call = self._wrap(receiver) if self._wrap else receiver
        name, subject = receiver_name(receiver), parking.subject(arguments)
        attempts, delays = 1, config.retry_delays()
        if isinstance(error, ConnectionBroken):
            attempts, delays = error.attempts, iter(())
        for delay in delays:
            self._work.require_intact(receiver, arguments, error)
            logger.warning(
                "%s failed at %s, again in %g s: %s",
                *(name, subject, delay, parking.describe(error)),
                extra={"stream": config.name, "receiver": name, "event_id": subject},
            )
            if self._stopped.wait(delay):
                raise Interrupted from error
            # What failed may have been a connection that the server has closed.
            renew_connections()
            attempts += 1
            try:
                call(signal=signal, sender=sender, stream=config.name, **arguments)
            except RAISED as again:
                error = again
            else:
                return
        self._work.require_intact(receiver, arguments, error)
        if config.on_error == "stop":
            raise ReceiverFailed(name, subject) from error
        if config.on_error == "park":
            parking.park(
                stream=config.name,
                signal=signal.name,
                receiver=name,
                arguments=arguments,
                error=error,
                attempts=attempts,
            )
        logger.error(
            "%s failed %d times at %s, %s",
            *(name, attempts, subject, _FATES[config.on_error]),
            exc_info=error,
            extra={"stream": config.name, "receiver": name, "event_id": subject},
        )


_FATES = {"park": "parked: see walex_replay", "skip": "skipped"}
