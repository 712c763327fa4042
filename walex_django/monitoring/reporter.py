"""What listeners say of themselves, written from a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Event, Thread

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections, router
from django.utils import timezone

from walex_django.conf.receivers_database import known_error
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.counts import Counts, total
from walex_django.events.event import Event as Changed
from walex_django.models import (
    READS,
    WAITS,
    ListenerReport,
    ListenerState,
    StreamSample,
    StreamSetting,
)

from .status import HISTORY

logger = logging.getLogger(__name__)

_TICK = 2.0  # seconds between two looks at a listener at work
_SAMPLE_EVERY = 10.0  # seconds
_SIGN_EVERY = 30.0  # seconds between two signs of those who wait
_MUCH = 2**20  # bytes of log: a lag that is worth a sample though nothing is delivered
_LINGER = 5.0  # seconds that the end may take


class Report:
    """
    What a listener says of itself.

    Args:
        config: of its stream.

    Attributes:
        counts: what it has done.
        hold: set when it is to pause after the transaction in hand.
        state, reason, since: what it does, why, and since when.
        backend_pid: the process of PostgreSQL that it reads from.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.id = uuid.uuid4()
        self.counts = Counts()
        self.hold = Event()
        self.state: ListenerState | None = None
        self.reason = ""
        self.since = timezone.now()
        self.backend_pid: int | None = None
        self.wake: Callable[[], object] = lambda: None
        self.news = False

    def set_state(
        self, state: ListenerState, reason: str = "", *, backend_pid: int | None = None
    ) -> None:
        """
        Take down what the listener does now.

        Args:
            state: what it does.
            reason: why, where that is not what it should do.
            backend_pid: the process of PostgreSQL that it reads from.
        """
        now = (state, reason, backend_pid)
        if now == (self.state, self.reason, self.backend_pid):
            return
        if state != self.state:
            self.since = timezone.now()
        self.state, self.reason, self.backend_pid = now
        self.news = True
        self.wake()


class Reporter:
    """
    Writes reports and samples to the receivers' database.

    It does when a state has changed, and every ten seconds while there is work: a
    stream that is idle writes nothing.

    Args:
        reports: of the listeners of this process.
    """

    def __init__(self, reports: Sequence[Report]) -> None:
        self._desks = [_Desk(report) for report in reports]
        self._wake = Event()
        self._closed = False
        self._thread = Thread(target=self._run, name="walex-reporter", daemon=True)
        for report in reports:
            report.wake = self._wake.set

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what is left to write, and end."""
        self._closed = True
        self._wake.set()
        self._thread.join(_LINGER)

    def _run(self) -> None:
        try:
            closed = False
            while not closed:
                self._wake.wait(_TICK)
                self._wake.clear()
                closed = self._closed
                for desk in self._desks:
                    desk.look()
        finally:
            connections.close_all()


def forget(stream: str) -> None:
    """Delete what was written of a stream, if there is anything."""
    with suppress(DatabaseError):  # not migrated yet, or not allowed to
        for model in (ListenerReport, StreamSample):
            rows = model._default_manager.using(router.db_for_write(model))
            rows.filter(stream=stream).delete()


class _Desk:
    """Where what one listener says is written."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stream = report.config.name
        self._events = self._transactions = 0  # as of the last sample
        self._seen = 0  # events at the last look
        self._sampled = self._wrote = time.monotonic()
        self._was_delivering = False  # as the row has it
        self._failed = False

    def look(self) -> None:
        """Write what there is to write."""
        try:
            try:
                self._look()
            except (OperationalError, InterfaceError):
                # One that has been idle may have been closed by the server.
                connections.close_all()
                self._look()
            self._failed = False
        except Exception as error:  # noqa: BLE001 - nobody else would look again
            connections.close_all()
            # One that waits or has failed tells why by itself, and it may be the same.
            if not self._failed and self._report.state in READS:
                self._failed = True
                logger.warning(
                    "What the listener of stream %s does could not be written: %s",
                    *(self._stream, _told(error)),
                    extra={
                        "stream": self._stream,
                        "slot": self._report.config.slot_name,
                    },
                )

    def _look(self) -> None:
        report, now = self._report, time.monotonic()
        if report.news:
            self._write(now, begin=report.state == ListenerState.RUNNING)
        elif report.state in WAITS:
            if now - self._wrote >= _SIGN_EVERY:
                self._write(now)
        elif report.state in READS:
            self._look_at_work(now)

    def _look_at_work(self, now: float) -> None:
        counts = self._report.counts
        events = total(counts.events)
        delivering = counts.delivering is not None
        if (events != self._seen or delivering) and self._is_paused():
            self._report.hold.set()
        self._seen = events
        if now - self._sampled < _SAMPLE_EVERY:
            return
        delivered = (events, counts.transactions) != (self._events, self._transactions)
        at_work = delivered or delivering or self._was_delivering
        if at_work or (self._lag() or 0) >= _MUCH:
            self._write(now, sample=True)
        else:
            self._sampled = now

    def _write(self, now: float, *, begin: bool = False, sample: bool = False) -> None:
        report, counts = self._report, self._report.counts
        assert report.state is not None
        events, transactions = total(counts.events), counts.transactions
        rows = ListenerReport.objects.using(router.db_for_write(ListenerReport))
        report.news = False
        try:
            if begin:
                self._tidy()
            last, delivering = counts.last, counts.delivering
            rows.update_or_create(
                stream=self._stream,
                listener=report.id,
                defaults={
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "backend_pid": report.backend_pid,
                    "state": report.state,
                    "reason": report.reason,
                    "since": report.since,
                    "events": events,
                    "transactions": transactions,
                    "failures": total(counts.failures),
                    "last_event_id": last.id if last else "",
                    "last_event_at": _committed_at(last),
                    "delivering_since": _committed_at(delivering),
                    "updated_at": timezone.now(),
                },
            )
            if sample or events != self._events:
                self._sample(now, events, transactions)
        except Exception:
            report.news = True
            raise
        self._was_delivering = delivering is not None
        self._wrote = now

    def _sample(self, now: float, events: int, transactions: int) -> None:
        samples = StreamSample.objects.using(router.db_for_write(StreamSample))
        samples.create(
            stream=self._stream,
            at=timezone.now(),
            seconds=now - self._sampled,
            events=events - self._events,
            transactions=transactions - self._transactions,
            lag=self._lag(),
        )
        samples.filter(stream=self._stream, at__lt=timezone.now() - HISTORY).delete()
        self._events, self._transactions, self._sampled = events, transactions, now

    def _tidy(self) -> None:
        """Delete what others said: who has the slot knows that they have not."""
        rows = ListenerReport.objects.using(router.db_for_write(ListenerReport))
        others = rows.filter(stream=self._stream).exclude(listener=self._report.id)
        others.exclude(
            state__in=WAITS, updated_at__gt=timezone.now() - 3 * _SIGN
        ).delete()

    def _is_paused(self) -> bool:
        rows = StreamSetting.objects.using(router.db_for_write(StreamSetting))
        kept = rows.filter(stream=self._stream, key="PAUSED")
        return list(kept.values_list("value", flat=True)) == [True]

    def _lag(self) -> int | None:
        """Return the bytes of log that are not done, if the server tells."""
        config = self._report.config
        if self._report.state not in READS:
            return None  # it may be away, and what is said of that must not wait
        with connections[config.database].cursor() as cursor:
            cursor.execute(_LAG, [config.slot_name])
            row = cursor.fetchone()
        return row[0] if row else None


def _told(error: Exception) -> str:
    known = known_error(error) if isinstance(error, DatabaseError) else None
    return str(known or error)


def _committed_at(event: Changed | None) -> datetime | None:
    """Return when an event was committed, as Django's databases take it."""
    if event is None:
        return None
    # Without USE_TZ, SQLite takes no times that have a zone.
    at = event.timestamp
    return at if settings.USE_TZ else timezone.make_naive(at)


_SIGN = timedelta(seconds=_SIGN_EVERY)

_LAG = """
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
    ELSE pg_current_wal_lsn() END - confirmed_flush_lsn)::bigint
FROM pg_catalog.pg_replication_slots WHERE slot_name = %s
"""
