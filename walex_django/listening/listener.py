"""Listeners, which run streams and reconnect after failures."""

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
from walex_django.delivery.transactions import ConnectionBreaks
from walex_django.models import ListenerState
from walex_django.monitoring.report import Report
from walex_django.monitoring.reporter import Reporter
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.lsn import Lsn
from walex_django.provisioning import gaps
from walex_django.replication.errors import (
    ConnectionLost,
    DecodingFailed,
    PublicationMissing,
    ReplicationError,
    SlotInUse,
)

from .session import Session
from .start import Start

logger = log.logger(__name__)

_FIRST_BACKOFF = 0.5  # seconds
_HEALTHY = 10.0  # seconds of streaming after which the backoff starts over
_GAP = " Changes made until then are not delivered: the slot is temporary."
_SIGNAL_DELAY = 0.2  # seconds, at most, until a signal is handled


class Listener:
    """
    Reads one stream and delivers its events until it is stopped.

    A listener waits for temporary conditions to end, without a time limit: an
    unavailable server, or another listener that has the slot. Any other problem is
    raised at once.

    Args:
        config: The stream's configuration.
        drain: Whether to stop at the WAL position of the start.
        wait: Whether to wait for temporary conditions before the stream first starts.
            Once it has started, the listener always waits.
        started: A callable that is called when the stream first starts.

    Attributes:
        report: The listener's report.
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
        self._on_start = started
        self._stopped = Event()
        self._session: Session | None = None
        self._breaks: ConnectionBreaks = ConnectionBreaks()
        self._streaming_since: float | None = None
        self._failure: type[ReplicationError] | None = None
        self._backoff = _FIRST_BACKOFF
        self._unreadable = ""
        self._undecodable: DecodingFailed | None = None

    def stop(self) -> None:
        """Stop after the current transaction. May be called from any thread."""
        self._stopped.set()
        if session := self._session:
            session.wake()

    def run(self) -> None:
        """
        Stream until stopped or drained.

        Raises:
            ReplicationError: The stream cannot start or continue.
            ProtocolError: The server sent the same invalid message twice.
            ReceiverFailed: A receiver failed, and its transaction is not acknowledged.
        """
        with log.about(stream=self.config.name, slot=self.config.slot_name):
            self._run()

    @property
    def has_begun(self) -> bool:
        """Whether the stream has ever started."""
        return self._streaming_since is not None

    def _run(self) -> None:
        while not self._stopped.is_set():
            session = self._session = Session(
                self.config,
                drain=self._drain,
                until=self._until,
                stopped=self._stopped,
                started=self._started,
                on_slot_in_use=self._report_failure if self._may_wait else None,
                breaks=self._breaks,
                report=self.report,
            )
            try:
                session.run()
            except Interrupted:
                logger.info(
                    "Stream %s stopped before a retry. The transaction will be"
                    " delivered again.",
                    self.config.name,
                )
                return
            except DecodingFailed as error:
                self._until = session.until
                self._decoding_failed(error, session)
            except ReplicationError as error:
                if not (error.passing and self._may_wait):
                    raise
                self._until = session.until
                if not self._stopped.is_set():
                    self._back_off(error)
            except ProtocolError as error:
                # It may be a network error; a repeated one comes from the server.
                if str(error) == self._unreadable:
                    raise
                self._until = session.until
                self._back_off(ConnectionLost(f"The stream cannot be read: {error}."))
                self._unreadable = str(error)
            else:
                return

    def _decoding_failed(self, error: DecodingFailed, session: Session) -> None:
        """
        Record a change that the server cannot send, or retry the first time.

        Raises:
            DecodingFailed: The server will never send it.
        """
        last, self._undecodable = self._undecodable, error
        if error.passing and self._may_wait and not (last and last.is_like(error)):
            self._back_off(error)
            return
        gaps.record(session.config, session.system, error)
        raise error

    @property
    def _may_wait(self) -> bool:
        return self._wait or self.has_begun

    def _started(self, start: Start) -> None:
        if self._streaming_since is None and self._on_start:
            self._on_start(start)
        elif self._failure:
            logger.info(
                "Stream %s reconnected",
                self.config.name,
                extra={"state": ListenerState.RUNNING.value},
            )
        self._failure = None
        self._streaming_since = time.monotonic()

    def _report_failure(self, error: ReplicationError) -> None:
        """Log and report why the stream is waiting, once per reason."""
        state = ListenerState.RETRYING
        if isinstance(error, SlotInUse):
            state = ListenerState.STANDBY
        self.report.set_state(state, str(error))
        if type(error) is self._failure:
            return
        self._failure = type(error)
        if isinstance(error, SlotInUse):
            message = f"{error.reason} Waiting to take over."
        else:
            message = f"{error} Retrying until it succeeds."
        if self._streaming_since is not None and not self.config.durable_slot:
            message += _GAP
        logger.warning(
            "Stream %s: %s",
            *(self.config.name, message),
            extra={"state": state.value},
        )

    def _back_off(self, error: ReplicationError) -> None:
        """Wait before the next attempt, longer after each failure."""
        since = self._streaming_since
        if since and time.monotonic() - since > _HEALTHY and not self._failure:
            self._backoff = _FIRST_BACKOFF
            self._unreadable = ""
        self._report_failure(error)
        if isinstance(error, SlotInUse):
            # Two listeners waited for the slot, and the other one got it.
            self._stopped.wait(_FIRST_BACKOFF)
            return
        # Jitter, so that not all listeners of a restarted server reconnect at once.
        self._stopped.wait(self._backoff * random.uniform(0.8, 1.2))
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)


class Listeners:
    """
    Several listeners, each in its own thread.

    When one of them fails, the others are stopped.

    Attributes:
        failures: The listeners that failed, each with its error.
        reports: The listeners' reports.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.failures: list[tuple[Listener, BaseException]] = []
        self._listeners = listeners
        self.reports = [listener.report for listener in listeners]
        self._reporter = Reporter(self.reports)
        # Daemon threads do not keep a process from exiting immediately.
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
        """Start all listeners."""
        self._reporter.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all listeners, each after its current transaction."""
        for listener in self._listeners:
            listener.stop()

    def join(self, timeout: float = math.inf) -> None:
        """
        Wait until all listeners have stopped.

        Args:
            timeout: The maximum number of seconds to wait.
        """
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            # Wait in steps: a signal that arrives just as a wait begins does not end
            # it, and its handler runs only after the wait.
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(_SIGNAL_DELAY)
        if not any(thread.is_alive() for thread in self._threads):
            self._reporter.close()

    def _run(self, listener: Listener) -> None:
        try:
            listener.run()
            listener.report.set_state(ListenerState.STOPPED)
        except BaseException as error:  # noqa: BLE001 - see `failures`
            reason = _reason(error)
            # Write nothing while a publication is missing: the report may be stored in
            # the same database, and the slot cannot get past WAL that was written
            # before the publication exists again.
            if listener.has_begun or not isinstance(error, PublicationMissing):
                listener.report.set_state(ListenerState.FAILED, reason)
            if listener.has_begun:
                # The caller reports an error that keeps the stream from starting.
                logger.error(  # noqa: TRY400 - the caller reports the traceback
                    "Stream %s failed: %s",
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
    """Return why a listener failed, without text that may contain values of rows."""
    if isinstance(error, ReplicationError | ImproperlyConfigured | ReceiverFailed):
        return " ".join(str(error).split())
    return f"The listener raised {type(error).__name__}; see its output for details."
