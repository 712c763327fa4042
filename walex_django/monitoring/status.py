"""
The status of streams, as known from their servers and the receivers' database.

Source: PostgreSQL, "pg_replication_slots" and "pg_stat_replication".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import TextChoices
from django.utils import timezone
from django.utils.translation import gettext_lazy

from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.models import (
    READS,
    WAITS,
    Gap,
    ListenerReport,
    StreamSample,
)
from walex_django.pgoutput.lsn import Lsn
from walex_django.replication.publications import PublishedTable
from walex_django.replication.slots import Slot

from .failing_receivers import FailingReceiver, failing_of

HISTORY = timedelta(hours=1)
"""How long samples are stored."""

# A waiting listener reports every 30 seconds; after three of them it counts as gone.
_HEARTBEAT_TIMEOUT = timedelta(seconds=90)
_RATE_WINDOW = timedelta(minutes=1)


class StreamState(TextChoices):
    """What currently happens to a stream's changes."""

    RUNNING = "running", gettext_lazy("running")
    FAILING = "failing", gettext_lazy("receivers failing")
    STARTING = "starting", gettext_lazy("starting")
    PAUSED = "paused", gettext_lazy("paused")
    STANDBY = "standby", gettext_lazy("standing by")
    RETRYING = "retrying", gettext_lazy("retrying")
    STOPPED = "stopped", gettext_lazy("stopped")
    FAILED = "failed", gettext_lazy("failed")
    TAKEN = "taken", gettext_lazy("read by another program")
    MISSING = "missing", gettext_lazy("no slot")
    LOST = "lost", gettext_lazy("slot lost")
    UNREACHABLE = "unreachable", gettext_lazy("server unreachable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """
    What the receivers' database stores about a stream.

    Attributes:
        reports: The reports of the stream's listeners, the latest first.
        samples: The samples of the last hour, in order.
        parked: The number of parked receiver calls; `None` if unknown.
        changed: The settings that were changed at runtime, by key.
        gaps: The transactions that the server could not send, the latest first.
        problems: Why the records could not be read or applied.
        locked: Whether another transaction locks the tables with the records.
    """

    reports: Sequence[ListenerReport] = ()
    samples: Sequence[StreamSample] = ()
    parked: int | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    problems: Sequence[Problem] = ()
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """
    The status of a listener, according to its report and its server.

    Attributes:
        report: Its last report.
        reads: Whether the listener reads the slot.
        gone: Whether its last report says that it reads or waits, but it does neither.
    """

    report: ListenerReport
    reads: bool
    gone: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the status as values for Django's JSON encoder."""
        report = {name: getattr(self.report, name) for name in _REPORT_FIELDS}
        return {**report, "reads": self.reads, "gone": self.gone}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """
    The status of a stream.

    Attributes:
        config: The stream's configuration, with the changes made at runtime.
        state: What currently happens to the stream's changes.
        reason: Why the stream is in this state, if it is not running as it should.
        since: Since when it has been in this state, if known.
        server_version: The version of PostgreSQL; empty if it could not be queried.
        slot: The stream's slot, or `None` if it does not exist.
        tables: The tables of its publications.
        problems: Problems, and the command that fixes each one.
        records: What the receivers' database stores about the stream.
        now: When the status was queried.
    """

    config: StreamConfig
    state: StreamState
    reason: str = ""
    since: datetime | None = None
    server_version: str = ""
    slot: Slot | None = None
    tables: Sequence[PublishedTable] = ()
    problems: Sequence[Problem] = ()
    records: Records = Records()
    now: datetime = field(default_factory=timezone.now)

    @property
    def report(self) -> ListenerReport | None:
        """The report of the listener that reads the slot, or else the latest one."""
        return reader_of(self.slot, self.records.reports) or next(
            iter(self.records.reports), None
        )

    @property
    def listener_problem(self) -> str:
        """The problem that the reading listener reports although it reads, if any."""
        reader = reader_of(self.slot, self.records.reports)
        return reader.reason if reader else ""

    @property
    def failing(self) -> list[FailingReceiver]:
        """The receivers that currently fail, if a listener reads the slot."""
        reader = reader_of(self.slot, self.records.reports)
        return failing_of(reader) if reader else []

    @property
    def listeners(self) -> list[ListenerStatus]:
        """The listeners that have reported, the latest first."""
        reports = self.records.reports
        reader = reader_of(self.slot, reports)
        reachable = self.state != StreamState.UNREACHABLE
        unread = reachable and (self.slot is None or self.slot.active_pid is None)
        waiting = waiting_of(reports, self.now, unread=unread)
        return [
            ListenerStatus(
                report=report,
                reads=report is reader,
                gone=(report.state in READS and reachable and report is not reader)
                or (report.state in WAITS and report not in waiting),
            )
            for report in reports
        ]

    @property
    def age(self) -> timedelta | None:
        """The longest time that an unprocessed change may have been waiting."""
        slot, report = self.slot, self.report
        if slot is None or slot.lag is None:
            return None
        if slot.active_pid is not None:
            ages = [slot.replay_lag or timedelta(0)]
            if report and report.delivering_since:
                ages.append(self._elapsed(report.delivering_since))
            if self.state == StreamState.PAUSED and slot.lag and self.since:
                ages.append(self._elapsed(self.since))
            return max(ages)
        if slot.lag == 0:
            return timedelta(0)
        since = slot.inactive_since or (report and report.updated_at)
        return self._elapsed(since) if since else None

    def _elapsed(self, since: datetime) -> timedelta:
        # Times from a server are aware, and Django's are only with USE_TZ.
        if timezone.is_aware(since) and timezone.is_naive(self.now):
            since = timezone.make_naive(since)
        return self.now - since

    @property
    def gaps(self) -> list[Gap]:
        """The skipped transactions, and the pending one that the slot is still at."""
        confirmed = (self.slot and self.slot.confirmed_lsn) or 0
        return [
            gap
            for gap in self.records.gaps
            if gap.skipped_at or gap.commit_lsn is None or gap.commit_lsn >= confirmed
        ]

    @property
    def events_per_second(self) -> float | None:
        """Events per second over the last minute, if known."""
        return self._rate(sample.events for sample in self._recent_samples())

    @property
    def transactions_per_second(self) -> float | None:
        """Transactions per second over the last minute, if known."""
        return self._rate(sample.transactions for sample in self._recent_samples())

    def _rate(self, numbers: Iterable[int]) -> float | None:
        if self.records.parked is None:
            return None  # the samples could not be read either
        return sum(numbers) / _RATE_WINDOW.seconds

    def _recent_samples(self) -> list[StreamSample]:
        since = self.now - _RATE_WINDOW
        return [sample for sample in self.records.samples if sample.at > since]

    def as_dict(self) -> dict[str, Any]:
        """Return the status as values for Django's JSON encoder."""
        slot, report, config = self.slot, self.report, self.config
        return {
            "name": config.name,
            "database": config.database,
            "state": self.state.value,
            "reason": self.reason,
            "since": self.since,
            "server_version": self.server_version,
            "slot_name": config.slot_name,
            "durable": config.durable_slot,
            "slot": slot and _slot_as_dict(slot),
            "age": _seconds(self.age),
            "publications": config.publications,
            "tables": [
                {
                    "name": str(table),
                    "publication": publication,
                    "replica_identity": identity,
                }
                for table, publication, identity in self.tables
            ],
            "listeners": [listener.as_dict() for listener in self.listeners],
            "events_per_second": self.events_per_second,
            "transactions_per_second": self.transactions_per_second,
            "failing": [receiver.as_dict() for receiver in self.failing],
            "last_event": report and (report.last_event_id or None),
            "last_event_at": report and report.last_event_at,
            "changed": self.records.changed,
            "parked": self.records.parked,
            "gaps": [_gap_as_dict(gap) for gap in self.gaps],
            "problems": [problem._asdict() for problem in self.problems],
        }


def _gap_as_dict(gap: Gap) -> dict[str, Any]:
    data = {name: getattr(gap, name) for name in _GAP_FIELDS}
    for key in ("position", "commit_lsn"):
        data[key] = None if data[key] is None else str(Lsn(data[key]))
    return data


_GAP_FIELDS = (
    *("xid", "position", "commit_lsn", "committed_at", "table", "error", "found_at"),
    *("skipped_at", "skipped_by"),
)


def gap_hint(gap: Gap) -> str:
    """Return how to skip a pending gap's transaction."""
    return f"To skip it, run: python manage.py walex_skip --stream {gap.stream}"


def _slot_as_dict(slot: Slot) -> dict[str, Any]:
    data = asdict(slot)
    for key in ("confirmed_lsn", "restart_lsn"):
        data[key] = None if data[key] is None else str(data[key])
    data["replay_lag"] = _seconds(slot.replay_lag)
    return data


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds()


_REPORT_FIELDS = (
    *("host", "process", "backend_pid", "state", "reason", "since", "events"),
    *("transactions", "failures", "delivering_since", "updated_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSlot:
    """
    A slot that belongs to no stream in ``WALEX``.

    Attributes:
        slot: The slot.
        config: The configuration of a stream on the same server, to connect with.
        system: The system identifier of the server.
        orphaned: Whether it has no reader while the server retains WAL for it.
    """

    slot: Slot
    config: StreamConfig
    system: int

    @property
    def orphaned(self) -> bool:  # noqa: D102
        slot = self.slot
        holds = slot.retained is not None or slot.lost
        unread = slot.active_pid is None and not (slot.temporary or slot.synced)
        return bool(holds and unread)

    def as_dict(self) -> dict[str, Any]:
        """Return the slot as values for Django's JSON encoder."""
        return {
            **_slot_as_dict(self.slot),
            "seen_by": self.config.name,
            "orphaned": self.orphaned,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The status of streams, and the other slots on their servers."""

    streams: Sequence[StreamStatus]
    others: Sequence[OtherSlot]


def reader_of(
    slot: Slot | None, reports: Sequence[ListenerReport]
) -> ListenerReport | None:
    """Return the report of the listener that reads a slot, if any."""
    if slot is None or slot.active_pid is None:
        return None
    for report in reports:
        if report.backend_pid == slot.active_pid and report.state in READS:
            return report
    return None


def waiting_of(
    reports: Sequence[ListenerReport], now: datetime, *, unread: bool
) -> list[ListenerReport]:
    """
    Return the reports of waiting listeners that are not known to be gone.

    Args:
        reports: The listeners' reports.
        now: The time of the inspection.
        unread: Whether the slot is known to have no reader.
    """
    return [
        report
        for report in reports
        if report.state in WAITS
        and now - report.updated_at < _HEARTBEAT_TIMEOUT
        and not (unread and _is_outlived(report, reports))
    ]


def _is_outlived(waiting: ListenerReport, reports: Iterable[ListenerReport]) -> bool:
    """
    Return whether a listener that started later has read the slot and ended.

    If the waiting listener were alive, it would have taken over.
    """
    return any(
        report.pk > waiting.pk
        and report.updated_at > waiting.updated_at
        and report.state not in WAITS
        for report in reports
    )
