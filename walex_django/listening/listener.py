"""Streams, kept alive: connect, stream, back off, connect again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from walex_django import log
from walex_django.conf.stream import MAX_BACKOFF, StreamConfig
from walex_django.delivery.dispatch import Interrupted, ReceiverFailed
from walex_django.delivery.transactions import Breaks
from walex_django.models import ListenerState
from walex_django.monitoring.reporter import Report, Reporter
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.lsn import Lsn
from walex_django.replication.errors import (
    ConnectionLost,
    PublicationMissing,
    ReplicationError,
    SlotInUse,
)

from .session import Session
from .start import Start

logger = log.logger(__name__)

_FIRST_BACKOFF = 0.5  # seconds
_HEALTHY = 10.0  # seconds of streaming after which an old failure is forgotten
_GAP = " What is written meanwhile is not delivered: the slot is temporary."
_SIGNAL_DELAY = 0.2  # seconds, at most, until a signal is obeyed


class Listener:
    """
    Reads one stream and delivers its events until it is stopped.

    What may pass by itself is waited for, however long that takes: a server that is
    away, another listener that has the slot. What will not is told at once.

    Args:
        config: of the stream.
        drain: end at the position that the log has at the start.
        wait: for the stream's beginning too; once it has begun, it is always taken up
            again.
        started: called when it begins to stream.

    Attributes:
        report: what it says of itself.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        drain: bool = False,
        wait: bool = True,
        started: Callable[[Start], None] | None = None,
    ) -> None:
        self.config = config
        self.report = Report(config)
        self._drain = drain
        self._wait = wait
        self._until: Lsn | None = None
        self._announce = started
        self._stopped = Event()
        self._session: Session | None = None
        self._breaks: Breaks = Breaks()
        self._streaming_since: float | None = None
        self._failure: type[ReplicationError] | None = None
        self._backoff = _FIRST_BACKOFF
        self._unreadable = ""

    def stop(self) -> None:
        """End after the transaction in hand. May be called from any thread."""
        self._stopped.set()
        if session := self._session:
            session.wake()

    def run(self) -> None:
        """
        Stream until `stop`, or until drained.

        Raises:
            ReplicationError: the stream cannot start, or cannot go on.
            ProtocolError: the server sent, twice, what is no message.
            ReceiverFailed: a receiver failed; its transaction is not acknowledged.
        """
        with log.about(stream=self.config.name, slot=self.config.slot_name):
            self._run()

    @property
    def has_begun(self) -> bool:
        """Whether it has ever streamed."""
        return self._streaming_since is not None

    def _run(self) -> None:
        while not self._stopped.is_set():
            session = self._session = Session(
                self.config,
                drain=self._drain,
                until=self._until,
                stopped=self._stopped,
                started=self._started,
                standing_by=self._report_failure if self._may_wait else None,
                breaks=self._breaks,
                report=self.report,
            )
            try:
                session.run()
            except Interrupted:
                logger.info(
                    "Stream %s is stopped before a retry; the transaction will come"
                    " again.",
                    self.config.name,
                )
                return
            except ReplicationError as error:
                if not (error.passing and self._may_wait):
                    raise
                self._until = session.until
                self._back_off(error)
            except ProtocolError as error:
                # Perhaps the network did it; what comes again, the server sent so.
                if str(error) == self._unreadable:
                    raise
                self._until = session.until
                self._back_off(ConnectionLost(f"The stream cannot be read: {error}."))
                self._unreadable = str(error)
            else:
                return

    @property
    def _may_wait(self) -> bool:
        return self._wait or self.has_begun

    def _started(self, start: Start) -> None:
        if self._streaming_since is None and self._announce:
            self._announce(start)
        elif self._failure:
            logger.info(
                "Stream %s is connected again",
                self.config.name,
                extra={"state": ListenerState.RUNNING.value},
            )
        self._failure = None
        self._streaming_since = time.monotonic()

    def _report_failure(self, error: ReplicationError) -> None:
        """Tell what the stream waits for, once for each reason."""
        waits = ListenerState.RETRYING
        if isinstance(error, SlotInUse):
            waits = ListenerState.STANDBY
        self.report.set_state(waits, str(error))
        if type(error) is self._failure:
            return
        self._failure = type(error)
        if isinstance(error, SlotInUse):
            told = f"{error.reason} Waiting to take over."
        else:
            told = f"{error} Trying again until it works."
        if self._streaming_since is not None and not self.config.durable_slot:
            told += _GAP
        logger.warning(
            "Stream %s: %s",
            *(self.config.name, told),
            extra={"state": waits.value},
        )

    def _back_off(self, error: ReplicationError) -> None:
        """Wait before the next attempt, each time longer."""
        since = self._streaming_since
        if since and time.monotonic() - since > _HEALTHY and not self._failure:
            self._backoff = _FIRST_BACKOFF
            self._unreadable = ""
        self._report_failure(error)
        if isinstance(error, SlotInUse):
            # Two have waited for the slot, and the other was faster.
            self._stopped.wait(_FIRST_BACKOFF)
            return
        # Not all listeners of a server that was restarted at the same moment.
        self._stopped.wait(self._backoff * random.uniform(0.8, 1.2))
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)


class Listeners:
    """
    Several listeners, each in a thread of its own.

    When one of them fails, the others end in order.

    Attributes:
        failures: listeners that ended by an error, with the error.
        reports: what each of them says of itself.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.failures: list[tuple[Listener, BaseException]] = []
        self._listeners = listeners
        self.reports = [listener.report for listener in listeners]
        self._reporter = Reporter(self.reports)
        # Daemons, so that a process in a hurry need not wait for them.
        self._threads = [
            Thread(
                target=self._run,
                args=[listener],
                name=f"walex-{listener.config.name}",
                daemon=True,
            )
            for listener in listeners
        ]

    def start(self) -> None:
        """Start all."""
        self._reporter.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all, each after its transaction in hand."""
        for listener in self._listeners:
            listener.stop()

    def join(self, timeout: float = math.inf) -> None:
        """Wait until all have ended. Args: timeout: seconds to wait at most."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            # In steps: a signal that arrives just as a wait begins does not end it, and
            # its handler runs only after the wait.
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(_SIGNAL_DELAY)
        if not any(thread.is_alive() for thread in self._threads):
            self._reporter.close()

    def _run(self, listener: Listener) -> None:
        try:
            listener.run()
            listener.report.set_state(ListenerState.STOPPED)
        except BaseException as error:  # noqa: BLE001 - whoever joins tells it
            reason = _reason(error)
            # Of a missing publication nothing may be written: the report is perhaps in
            # the same database, and what is written there before there is a publication
            # again, its slot cannot pass.
            if listener.has_begun or not isinstance(error, PublicationMissing):
                listener.report.set_state(ListenerState.FAILED, reason)
            if listener.has_begun:
                # What keeps it from beginning is told to whoever has started it.
                logger.error(  # noqa: TRY400 - and so is the traceback
                    "Stream %s has ended: %s",
                    *(listener.config.name, reason),
                    extra={
                        "stream": listener.config.name,
                        "slot": listener.config.slot_name,
                        "state": ListenerState.FAILED.value,
                    },
                )
            self.failures.append((listener, error))
            self.stop()
        finally:
            connections.close_all()


def _reason(error: BaseException) -> str:
    """Return why a listener has ended, without what may be values of rows."""
    if isinstance(error, ReplicationError | ImproperlyConfigured | ReceiverFailed):
        return " ".join(str(error).split())
    return f"It ended by an error that its log tells: {type(error).__name__}."
