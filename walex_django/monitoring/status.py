"""
How the streams are, as their servers and the receivers' database tell.

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
    ListenerReport,
    StreamSample,
)
from walex_django.replication.publications import PublishedTable
from walex_django.replication.slots import Slot

HISTORY = timedelta(hours=1)
"""Of how long ago samples are kept."""

_ALIVE = timedelta(seconds=90)  # since a report of those who wait
_RECENT = timedelta(minutes=1)  # for the rates
_TIMEOUT = 3  # seconds to wait for a server


class StreamState(TextChoices):
    """What becomes of a stream's changes just now."""

    RUNNING = "running", gettext_lazy("running")
    PAUSED = "paused", gettext_lazy("paused")
    STANDBY = "standby", gettext_lazy("standing by")
    RETRYING = "retrying", gettext_lazy("retrying")
    STOPPED = "stopped", gettext_lazy("stopped")
    FAILED = "failed", gettext_lazy("failed")
    TAKEN = "taken", gettext_lazy("read by another program")
    MISSING = "missing", gettext_lazy("no slot")
    LOST = "lost", gettext_lazy("slot lost")
    UNREACHABLE = "unreachable", gettext_lazy("server out of reach")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """
    What the receivers' database has of a stream.

    Attributes:
        reports: of its listeners, the latest first.
        samples: of the last hour, in order.
        parked: calls of receivers that are parked; `None` where it did not tell.
        changed: settings that were changed while the stream ran, by key.
        problems: why it could not be asked, or does not fit.
    """

    reports: Sequence[ListenerReport] = ()
    samples: Sequence[StreamSample] = ()
    parked: int | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """
    A listener, as it says and as its server knows.

    Attributes:
        report: what it has said last.
        reads: it has the slot.
        gone: it said that it reads or waits, and does not.
    """

    report: ListenerReport
    reads: bool
    gone: bool

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as values for Django's JSON encoder."""
        said = {name: getattr(self.report, name) for name in _REPORTED}
        return {**said, "reads": self.reads, "gone": self.gone}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """
    A stream.

    Attributes:
        config: of the stream, with what was changed since.
        state: what becomes of its changes.
        reason: why, where that is not what it should be.
        since: since when, if that is known.
        server_version: of PostgreSQL; empty where it could not be asked.
        slot: `None` where there is none.
        tables: what its publications send.
        problems: what is wrong, with what mends it.
        account: what the receivers' database has of it.
        now: when it was asked.
    """

    config: StreamConfig
    state: StreamState
    reason: str = ""
    since: datetime | None = None
    server_version: str = ""
    slot: Slot | None = None
    tables: Sequence[PublishedTable] = ()
    problems: Sequence[Problem] = ()
    account: Account = Account()
    now: datetime = field(default_factory=timezone.now)

    @property
    def report(self) -> ListenerReport | None:
        """Of the listener that reads, or of the last one that said anything."""
        return reader_of(self.slot, self.account.reports) or next(
            iter(self.account.reports), None
        )

    @property
    def listeners(self) -> list[ListenerStatus]:
        """Those that have reported, the latest first."""
        reports = self.account.reports
        reader = reader_of(self.slot, reports)
        told = self.state != StreamState.UNREACHABLE
        unread = told and (self.slot is None or self.slot.active_pid is None)
        waiting = waiting_of(reports, self.now, unread=unread)
        return [
            ListenerStatus(
                report=each,
                reads=each is reader,
                gone=(each.state in READS and told and each is not reader)
                or (each.state in WAITS and each not in waiting),
            )
            for each in reports
        ]

    @property
    def age(self) -> timedelta | None:
        """How long the oldest change that is not done may have waited."""
        slot, report = self.slot, self.report
        if slot is None or slot.lag is None:
            return None
        if slot.active_pid is not None:
            waits = [slot.replay_lag or timedelta(0)]
            if report and report.delivering_since:
                waits.append(self._waited(report.delivering_since))
            if self.state == StreamState.PAUSED and slot.lag and self.since:
                waits.append(self._waited(self.since))
            return max(waits)
        if slot.lag == 0:
            return timedelta(0)
        since = slot.inactive_since or (report and report.updated_at)
        return self._waited(since) if since else None

    def _waited(self, since: datetime) -> timedelta:
        # A server's times have a zone, and Django's only with USE_TZ.
        if timezone.is_aware(since) and timezone.is_naive(self.now):
            since = timezone.make_naive(since)
        return self.now - since

    @property
    def events_per_second(self) -> float | None:
        """Over the last minute, if that is known."""
        return self._rate(each.events for each in self._recent())

    @property
    def transactions_per_second(self) -> float | None:
        """Over the last minute, if that is known."""
        return self._rate(each.transactions for each in self._recent())

    def _rate(self, numbers: Iterable[int]) -> float | None:
        if self.account.parked is None:
            return None  # samples were not told either
        return sum(numbers) / _RECENT.seconds

    def _recent(self) -> list[StreamSample]:
        since = self.now - _RECENT
        return [each for each in self.account.samples if each.at > since]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as values for Django's JSON encoder."""
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
            "listeners": [each.as_dict() for each in self.listeners],
            "events_per_second": self.events_per_second,
            "transactions_per_second": self.transactions_per_second,
            "last_event": report and (report.last_event_id or None),
            "last_event_at": report and report.last_event_at,
            "changed": self.account.changed,
            "parked": self.account.parked,
            "problems": [problem._asdict() for problem in self.problems],
        }


def _slot_as_dict(slot: Slot) -> dict[str, Any]:
    told = asdict(slot)
    for key in ("confirmed_lsn", "restart_lsn"):
        told[key] = None if told[key] is None else str(told[key])
    told["replay_lag"] = _seconds(slot.replay_lag)
    return told


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds()


_REPORTED = (
    *("host", "process", "backend_pid", "state", "reason", "since", "events"),
    *("transactions", "failures", "delivering_since", "updated_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSlot:
    """
    A slot that no stream of ``WALEX`` has.

    Attributes:
        slot: the slot.
        config: of a stream on its server, by which it can be reached.
        system: identifier of its server.
        orphaned: nobody reads it, and the server keeps its log for it.
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
        """Return all of it as values for Django's JSON encoder."""
        return {
            **_slot_as_dict(self.slot),
            "seen_by": self.config.name,
            "orphaned": self.orphaned,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All streams, and what else is on their servers."""

    streams: Sequence[StreamStatus]
    others: Sequence[OtherSlot]


def reader_of(
    slot: Slot | None, reports: Sequence[ListenerReport]
) -> ListenerReport | None:
    """Return the report of the listener that reads from a slot."""
    if slot is None or slot.active_pid is None:
        return None
    for report in reports:
        if report.backend_pid == slot.active_pid and report.state in READS:
            return report
    return None


def waiting_of(
    reports: Sequence[ListenerReport], now: datetime, *, unread: bool
) -> list[ListenerReport]:
    """Return the reports of listeners that wait and are not known to be gone."""
    return [
        each
        for each in reports
        if each.state in WAITS
        and now - each.updated_at < _ALIVE
        and not (unread and _is_outlived(each, reports))
    ]


def _is_outlived(waiting: ListenerReport, reports: Iterable[ListenerReport]) -> bool:
    """Return whether one that began later has read and ended since a report."""
    return any(
        each.pk > waiting.pk
        and each.updated_at > waiting.updated_at
        and each.state not in WAITS
        for each in reports
    )
