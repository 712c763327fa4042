"""Listener reports, written to the receivers' database by a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Event, Thread

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections, router
from django.utils import timezone

from walex_django.conf.own_tables import has_timed_out, own_transaction
from walex_django.conf.receivers_database import known_error
from walex_django.delivery.breakers import Failing
from walex_django.delivery.counts import total
from walex_django.events.event import Event as ChangeEvent
from walex_django.models import (
    READS,
    WAITS,
    ListenerReport,
    ListenerState,
    StreamSample,
    StreamSetting,
)
from walex_django.replication.errors import NotPrepared
from walex_django.replication.synchronous import require_asynchronous

from .publication_watch import PublicationWatch
from .report import Report
from .status import HISTORY

logger = logging.getLogger(__name__)

_TICK = 2.0  # seconds between two checks of the listeners
_SAMPLE_EVERY = 10.0  # seconds
_HEARTBEAT_EVERY = 30.0  # seconds between two reports of a waiting listener
_LARGE_LAG = 2**20  # bytes of WAL: sampled even if nothing is delivered
_CLOSE_TIMEOUT = 5.0  # seconds


class Reporter:
    """
    Writes reports and samples to the receivers' database in a background thread.

    It writes when a state changes, and every ten seconds while there is work. It writes
    nothing for an idle stream.

    Args:
        reports: The reports of this process's listeners.
    """

    def __init__(self, reports: Sequence[Report]) -> None:
        self._writers = [_ReportWriter(report) for report in reports]
        self._wake = Event()
        self._closed = False
        self._thread = Thread(target=self._run, name="walex-reporter", daemon=True)
        for report in reports:
            report.wake = self._wake.set
            report.has_reporter = True

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Write the last changes and stop the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join(_CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            closed = False
            while not closed:
                self._wake.wait(_TICK)
                self._wake.clear()
                closed = self._closed
                for writer in self._writers:
                    writer.check()
        finally:
            connections.close_all()


def forget(stream: str) -> None:
    """Delete the reports and samples of a stream, if any."""
    # The tables may not be migrated, or locked, or the role may lack permission.
    with suppress(DatabaseError):
        for model in (ListenerReport, StreamSample):
            using = router.db_for_write(model)
            with own_transaction(using):
                model._default_manager.using(using).filter(stream=stream).delete()


class _ReportWriter:
    """Writes the report and the samples of one listener."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stream = report.config.name
        self._events = self._transactions = 0  # as of the last sample
        self._seen = 0  # events at the last check
        self._sampled_at = self._written_at = time.monotonic()
        self._was_delivering = False  # as last written
        self._failing: set[tuple[str, str, bool]] = set()  # as last written
        self._failed = False
        self._watch = PublicationWatch(report.config)

    def check(self) -> None:
        """Write the report and a sample if they are due."""
        try:
            try:
                self._check()
            except (OperationalError, InterfaceError) as error:
                if has_timed_out(error):
                    raise
                # The server may have closed an idle connection.
                connections.close_all()
                self._check()
            self._failed = False
        except Exception as error:  # noqa: BLE001 - the thread has to continue
            connections.close_all()
            # A waiting or failed listener logs its own reason, perhaps the same one.
            if not self._failed and self._report.state in READS:
                self._failed = True
                logger.warning(
                    "Could not store the report of the listener of stream %s: %s",
                    *(self._stream, _describe(error)),
                    extra={
                        "stream": self._stream,
                        "slot": self._report.config.slot_name,
                    },
                )

    def _check(self) -> None:
        report, now = self._report, time.monotonic()
        self._check_publications()
        if report.unsaved:
            self._write(now, tidy=report.state == ListenerState.RUNNING)
        elif report.state in WAITS:
            if now - self._written_at >= _HEARTBEAT_EVERY:
                self._write(now)
        elif report.state in READS:
            self._check_reading(now)

    def _check_publications(self) -> None:
        report, watch = self._report, self._watch
        if report.state not in READS:
            watch.reset()
            return
        if not watch.is_due(changed=report.described):
            return
        report.described = False
        watch.check()
        problem = watch.problem
        if problem == report.problem:
            return
        extra = {"stream": self._stream, "slot": report.config.slot_name}
        if problem:
            logger.warning("Stream %s: %s", self._stream, problem, extra=extra)
        else:
            logger.info(
                "Stream %s: its publications contain all its tables again",
                self._stream,
                extra=extra,
            )
        report.problem, report.unsaved = problem, True

    def _check_reading(self, now: float) -> None:
        counts = self._report.counts
        events = total(counts.events)
        delivering = counts.delivering is not None
        if (events != self._seen or delivering) and self._is_paused():
            self._report.hold.set()
        self._seen = events
        if self._failing != {_brief(failing) for failing in counts.failing_now()}:
            self._write(now)
        if now - self._sampled_at < _SAMPLE_EVERY:
            return
        delivered = (events, counts.transactions) != (self._events, self._transactions)
        is_busy = delivered or delivering or self._was_delivering
        if is_busy or (self._lag() or 0) >= _LARGE_LAG:
            self._write(now, sample=True)
        else:
            self._sampled_at = now

    def _write(self, now: float, *, tidy: bool = False, sample: bool = False) -> None:
        report, counts = self._report, self._report.counts
        assert report.state is not None
        events, transactions = total(counts.events), counts.transactions
        rows = ListenerReport.objects.using(router.db_for_write(ListenerReport))
        report.unsaved = False
        last, delivering = counts.last, counts.delivering
        is_sampled = sample or events != self._events
        try:
            lag = self._lag() if is_sampled else None
            failing = counts.failing_now() if report.state in READS else []
            # A reader never sees a report without its sample.
            with own_transaction(rows.db, router.db_for_write(StreamSample)):
                if tidy:
                    self._delete_other_reports()
                rows.update_or_create(
                    stream=self._stream,
                    listener=report.id,
                    defaults={
                        "host": socket.gethostname(),
                        "process": os.getpid(),
                        "backend_pid": report.backend_pid,
                        "state": report.state,
                        "reason": report.reason or report.problem,
                        "since": report.since,
                        "events": events,
                        "transactions": transactions,
                        "failures": total(counts.failures),
                        "failing": [each.as_dict() for each in failing],
                        "last_event_id": last.id if last else "",
                        "last_event_at": _committed_at(last),
                        "delivering_since": _committed_at(delivering),
                        "updated_at": timezone.now(),
                    },
                )
                if is_sampled:
                    self._sample(now, events, transactions, lag)
            if is_sampled:
                self._events, self._transactions = events, transactions
                self._sampled_at = now
        except Exception:
            report.unsaved = True
            raise
        if not report.unsaved:
            report.saved.set()
        self._was_delivering = delivering is not None
        self._failing = {_brief(each) for each in failing}
        self._written_at = now

    def _sample(
        self, now: float, events: int, transactions: int, lag: int | None
    ) -> None:
        samples = StreamSample.objects.using(router.db_for_write(StreamSample))
        samples.create(
            stream=self._stream,
            at=timezone.now(),
            seconds=now - self._sampled_at,
            events=events - self._events,
            transactions=transactions - self._transactions,
            lag=lag,
        )
        expired = timezone.now() - HISTORY
        samples.filter(stream=self._stream, at__lt=expired).delete()

    def _delete_other_reports(self) -> None:
        # This listener has the slot, so no other listener reads it.
        rows = ListenerReport.objects.using(router.db_for_write(ListenerReport))
        others = rows.filter(stream=self._stream).exclude(listener=self._report.id)
        others.exclude(
            state__in=WAITS, updated_at__gt=timezone.now() - 3 * _HEARTBEAT
        ).delete()

    def _is_paused(self) -> bool:
        rows = StreamSetting.objects.using(router.db_for_write(StreamSetting))
        setting = rows.filter(stream=self._stream, key="PAUSED")
        with own_transaction(rows.db):
            return list(setting.values_list("value", flat=True)) == [True]

    def _lag(self) -> int | None:
        """Return the unprocessed WAL in bytes, if known."""
        config = self._report.config
        if self._report.state not in READS:
            # The server may be unreachable, and reporting that must not wait for it.
            return None
        with connections[config.database].cursor() as cursor:
            cursor.execute(_LAG, [config.slot_name])
            row = cursor.fetchone()
        if row is None:
            return None
        lag: int | None
        lag, names = row
        self._check_synchronous(names)
        return lag

    def _check_synchronous(self, names: str | None) -> None:
        """End the stream if a reloaded setting makes it a synchronous standby."""
        connection = self._report.connection
        if connection is None or connection.is_released or names is None:
            return
        try:
            require_asynchronous(names, connection.application)
        except NotPrepared as error:
            # The listener's thread may be in a receiver, whose COMMIT waits for it.
            connection.release(error)
            logger.error(  # noqa: TRY400 - an expected error
                "Stream %s: %s",
                *(self._stream, error),
                extra={
                    "stream": self._stream,
                    "slot": self._report.config.slot_name,
                },
            )


def _brief(failing: Failing) -> tuple[str, str, bool]:
    return failing.receiver, failing.signal, failing.is_open


def _describe(error: Exception) -> str:
    known = known_error(error) if isinstance(error, DatabaseError) else None
    return str(known or error)


def _committed_at(event: ChangeEvent | None) -> datetime | None:
    """Return the commit time of an event in the form that Django's databases accept."""
    if event is None:
        return None
    # Without USE_TZ, SQLite does not accept aware times.
    at = event.timestamp
    return at if settings.USE_TZ else timezone.make_naive(at)


_HEARTBEAT = timedelta(seconds=_HEARTBEAT_EVERY)

_LAG = """
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
    ELSE pg_current_wal_lsn() END - confirmed_flush_lsn)::bigint,
    CASE WHEN NOT pg_is_in_recovery()
        THEN current_setting('synchronous_standby_names') END
FROM pg_catalog.pg_replication_slots WHERE slot_name = %s
"""
