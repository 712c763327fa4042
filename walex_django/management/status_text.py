"""The status of the streams as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.core.management.color import Style
from django.utils import timezone

from walex_django.conf.reader import Problem
from walex_django.models import Gap, ListenerReport
from walex_django.monitoring.status import (
    ListenerStatus,
    OtherSlot,
    Overview,
    StreamState,
    StreamStatus,
    gap_hint,
)
from walex_django.replication.publications import PublishedTable
from walex_django.replication.slots import Slot
from walex_django.units import format_size

_MAX_TABLES = 10


class StatusText:
    """
    Formats the status of streams as text.

    Args:
        style: The style of the command's output.
        all_tables: Whether to list all tables of a publication, not only the first few.
    """

    def __init__(self, style: Style, *, all_tables: bool = False) -> None:
        self._style = style
        self._max_tables = None if all_tables else _MAX_TABLES

    def lines(self, overview: Overview) -> Iterator[str]:
        """Yield the lines for all streams, and for the other slots on their servers."""
        for stream in overview.streams:
            yield from self._stream(stream)
        if overview.others:
            yield "other slots on these servers"
            for other in overview.others:
                yield f"  {self._other(other)}"

    def _stream(self, stream: StreamStatus) -> Iterator[str]:
        config, slot = stream.config, stream.slot
        version = f" (PostgreSQL {stream.server_version})" * bool(stream.server_version)
        yield f"{config.name} on database {config.database}{version}"
        yield f"  state        {self._state(stream)}"
        for receiver in stream.failing:
            text = f"{receiver}, since {format_time(receiver.since)}"
            yield f"  failing      {self._style.ERROR(text)}"
        if stream.state != StreamState.UNREACHABLE:
            yield f"  slot         {config.slot_name}: {_slot(slot)}"
        for number, listener in enumerate(stream.listeners):
            yield f"  {'' if number else 'listeners':<12} {_listener(listener)}"
        if slot:
            yield from self._wal(stream, slot)
        yield f"  rates        {_rates(stream)}"
        if report := stream.report:
            yield from _delivered(report)
        if stream.state != StreamState.UNREACHABLE:
            yield (
                f"  publication  {', '.join(config.publications)}:"
                f" {self._tables(stream)}"
            )
        parked = stream.records.parked
        yield f"  parked       {'unknown' if parked is None else parked or 'none'}"
        for gap in stream.gaps:
            yield from self._gap(gap)
        for key, value in stream.records.changed.items():
            yield f"  changed      {key} = {json.dumps(value, ensure_ascii=False)}"
        for problem in stream.problems:
            yield from self._problem(problem)

    def _gap(self, gap: Gap) -> Iterator[str]:
        committed = (
            f", committed {format_time(gap.committed_at)}" if gap.committed_at else ""
        )
        table = f", table {gap.table}" if gap.table else ""
        text = f"  gap          {gap.place}{committed}{table}: {gap.error}"
        if gap.skipped_at:
            by = f" by {gap.skipped_by}" if gap.skipped_by else ""
            yield text
            yield f"{'':<15}skipped {format_time(gap.skipped_at)}{by}"
        else:
            yield self._style.WARNING(text)
            yield self._style.WARNING(f"{'':<15}{gap_hint(gap)}")

    def _problem(self, problem: Problem) -> Iterator[str]:
        is_note = problem.id.startswith("I")
        id = f"{problem.id}: " if problem.id else ""
        lines = [f"{'note' if is_note else 'problem':<12} {id}{problem.message}"]
        if problem.hint:
            lines.append(f"{'':<12} {problem.hint}")
        for line in lines:
            yield f"  {line}" if is_note else self._style.WARNING(f"  {line}")

    def _state(self, stream: StreamStatus) -> str:
        colour = self._style.ERROR
        if stream.state == StreamState.RUNNING:
            colour = self._style.SUCCESS
        elif stream.state == StreamState.PAUSED:
            colour = self._style.WARNING
        since = f" since {format_time(stream.since)}" if stream.since else ""
        # A failing receiver has a line of its own.
        shown = stream.reason and not stream.failing
        reason = f": {stream.reason}" if shown else ""
        return f"{colour(str(stream.state.label))}{since}{reason}"

    def _wal(self, stream: StreamStatus, slot: Slot) -> Iterator[str]:
        if slot.lag is not None:
            age = "" if stream.age is None else f", {_age(stream.age)} old"
            yield f"  lag          {format_size(slot.lag)}{age}"
        yield f"  retained     {self._retained(slot)}"

    def _retained(self, slot: Slot) -> str:
        text = (
            "nothing"
            if slot.retained is None
            else f"{format_size(slot.retained)} of WAL"
        )
        if slot.wal_status:
            text += f", wal_status {slot.wal_status}"
        if slot.safe_wal_size is not None:
            left = max(slot.safe_wal_size, 0)
            text += f", slot is lost after another {format_size(left)}"
        if slot.wal_status in {"unreserved", "lost"}:
            return self._style.WARNING(text)
        return text

    def _tables(self, stream: StreamStatus) -> str:
        names = [_table(published) for published in stream.tables]
        if self._max_tables and len(names) > self._max_tables:
            names[self._max_tables :] = [
                f"and {len(names) - self._max_tables} more, {len(names)} in all"
            ]
        return ", ".join(names) or "no tables"

    def _other(self, other: OtherSlot) -> str:
        slot = other.slot
        database = f", database {slot.database}" if slot.database else ""
        retained = (
            "" if slot.retained is None else f", {format_size(slot.retained)} of WAL"
        )
        text = f"{slot.name}: {slot.slot_type}{database}, {_slot(slot)}{retained}"
        if other.orphaned:
            return self._style.WARNING(f"{text}; orphaned")
        return text


def _table(published: PublishedTable) -> str:
    if published.identity == "key":
        return str(published.table)
    return f"{published.table} ({published.identity})"


def _slot(slot: Slot | None) -> str:
    if slot is None:
        return "does not exist"
    kind = "temporary" if slot.temporary else "durable"
    if slot.lost:
        return f"{kind}, lost"
    if slot.active_pid is None:
        reader = "synchronized from the primary" if slot.synced else "no reader"
        return f"{kind}, {reader}"
    since = f" since {format_time(slot.since)}" if slot.since else ""
    return (
        f"{kind}, read by {slot.client or 'a local process'}"
        f" (walsender {slot.active_pid}){since}"
    )


def _rates(stream: StreamStatus) -> str:
    events, transactions = stream.events_per_second, stream.transactions_per_second
    if events is None or transactions is None:
        return "unknown"
    return f"{events:.1f} events/s, {transactions:.1f} transactions/s"


def _listener(listener: ListenerStatus) -> str:
    report = listener.report
    state = f"{report.get_state_display()} since {format_time(report.since)}"
    if listener.gone:
        state = f"gone (was {state})"
    return f"{report.host}, process {report.process}: {state}"


def _delivered(report: ListenerReport) -> Iterator[str]:
    """Yield the counters of the listener that reads the slot, or that read it last."""
    yield (
        f"  delivered    {_count(report.events, 'event')},"
        f" {_count(report.transactions, 'transaction')},"
        f" {_count(report.failures, 'failed call')}"
    )
    if report.last_event_id:
        at = report.last_event_at
        committed = f", committed {format_time(at)}" if at else ""
        yield f"  last event   {report.last_event_id}{committed}"


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' * (number != 1)}"


def format_time(time: datetime) -> str:
    """Return a time in the current time zone."""
    local = timezone.localtime(time) if timezone.is_aware(time) else time
    return f"{local:%Y-%m-%d %H:%M:%S %Z}".rstrip()


def _age(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=int(seconds)))
