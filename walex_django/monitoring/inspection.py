"""
Inspection of streams: queries their servers and the receivers' database.

Source: PostgreSQL, "pg_replication_slots" and "pg_stat_replication".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import router
from django.utils import timezone

from walex_django.conf import configs, receivers_database, stored
from walex_django.conf.configs import get_configs
from walex_django.conf.own_tables import own_transaction
from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.diagnosis.problems import find_problems
from walex_django.models import (
    ListenerReport,
    ListenerState,
    ParkedEvent,
    StreamSample,
    StreamSetting,
)
from walex_django.provisioning import gaps
from walex_django.replication import publications, server, slots
from walex_django.replication.connection import Connection, connect, sql_error
from walex_django.replication.errors import ReplicationError, TableLocked
from walex_django.replication.publications import PublishedTable
from walex_django.replication.slots import Slot

from .failing_receivers import failing_of
from .status import (
    HISTORY,
    OtherSlot,
    Overview,
    Records,
    StreamState,
    StreamStatus,
    reader_of,
    waiting_of,
)

_TIMEOUT = 3  # seconds to wait for a server
_RECORDS_TIMEOUT = 2  # seconds to wait for a statement in the receivers' database


_KILLED = "The listener exited without reporting a status (it was probably killed)."


def inspect_all(configs: Iterable[StreamConfig], *, diagnose: bool = True) -> Overview:
    """
    Return the status of streams.

    A server that does not answer is not an error: its streams are
    `StreamState.UNREACHABLE`.

    Args:
        configs: The streams' configurations.
        diagnose: Whether to also look for problems, published tables and other slots.
            With many tables, this is slow.
    """
    # A slot name counts as configured on every server: the server of a stream that is
    # not inspected is unknown.
    configured = {config.slot_name for config in get_configs().values()}
    streams: list[StreamStatus] = []
    others: dict[tuple[int, str], OtherSlot] = {}
    unreachable: dict[tuple[str, str | None], ReplicationError] = {}
    failure: DatabaseError | None = None
    for original in configs:
        place = original.database, original.url
        config, records, failure = _load(original, failure)
        if place not in unreachable:
            try:
                parameters = config.connection_parameters()
                with connect(parameters, timeout=_TIMEOUT) as connection:
                    status = inspect(config, connection, records, diagnose=diagnose)
                    all_slots: Sequence[Slot] = ()
                    if diagnose:
                        system, _ = server.identity(connection)
                        all_slots = slots.every(connection)
                    streams.append(status)
                    for slot in all_slots:
                        if slot.name not in configured:
                            other = OtherSlot(slot=slot, config=config, system=system)
                            others.setdefault((system, slot.name), other)
                continue
            except psycopg.Error as error:
                unreachable[place] = sql_error(error, slot=config.slot_name)
            except ReplicationError as error:
                unreachable[place] = error
        streams.append(_unreachable(config, records, unreachable[place]))
    return Overview(streams=streams, others=list(others.values()))


def inspect(
    config: StreamConfig,
    connection: Connection,
    records: Records,
    *,
    diagnose: bool = True,
) -> StreamStatus:
    """
    Return the status of one stream.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.
        records: The stream's records in the receivers' database.
        diagnose: Whether to also look for problems and published tables.

    Raises:
        psycopg.Error: A query failed.
    """
    slot = slots.find(connection, config.slot_name)
    state, reason, since = _state(config, slot, records)
    tables: Sequence[PublishedTable] = ()
    problems = list(records.problems)
    if diagnose:
        tables = publications.published(connection, config.publications)
        problems += find_problems(config, connection)
    reader = reader_of(slot, records.reports)
    if reader and reader.reason and reader.reason not in map(_text, problems):
        problems.append(Problem("", reader.reason, ""))
    return StreamStatus(
        config=config,
        state=state,
        reason=reason,
        since=since,
        server_version=connection.info.parameter_status("server_version") or "",
        slot=slot,
        tables=tables,
        problems=problems,
        records=records,
    )


def _unreachable(
    config: StreamConfig, records: Records, error: ReplicationError
) -> StreamStatus:
    return StreamStatus(
        config=config,
        state=StreamState.UNREACHABLE,
        reason=str(error),
        problems=records.problems,
        records=records,
    )


def _load(
    original: StreamConfig, failure: DatabaseError | None
) -> tuple[StreamConfig, Records, DatabaseError | None]:
    """
    Return a stream's current configuration and its records.

    Args:
        original: The stream's configuration.
        failure: The error of the receivers' database for another stream, if any. It is
            not queried again then: each attempt might last until its timeout.

    Returns:
        The configuration, the records, and an error that concerns all streams.
    """
    name = original.name
    records = Records()
    # With ATOMIC_REQUESTS, an error would break the request's transaction.
    aliases = {router.db_for_write(StreamSetting), receivers_database.database()}
    aliases.update(map(router.db_for_read, (ListenerReport, StreamSample, ParkedEvent)))
    try:
        if failure is not None:
            raise failure
        with own_transaction(*aliases, seconds=_RECORDS_TIMEOUT):
            samples = StreamSample.objects.filter(
                stream=name, at__gt=timezone.now() - HISTORY
            )
            reports = ListenerReport.objects.filter(stream=name)
            records = Records(
                reports=list(reports.order_by("-updated_at")),
                samples=list(samples.order_by("at")),
                parked=ParkedEvent.objects.filter(stream=name).count(),
                changed=stored.kept(name),
                gaps=gaps.of_stream(name),
            )
        stored.apply(name, records.changed)
        return configs.follow(original), records, None
    except DatabaseError as error:
        known = receivers_database.known_error(error)
        problems = [_problem(known or error)]
        locked = isinstance(known, TableLocked)
        records = replace(records, problems=problems, locked=locked)
        return original, records, error
    except ImproperlyConfigured as error:
        return original, replace(records, problems=[_problem(error)]), None


def _text(problem: Problem) -> str:
    return f"{problem.message} {problem.hint}".strip()


def _problem(error: Exception) -> Problem:
    if isinstance(error, ReplicationError):
        return Problem("", error.reason, error.hint)
    return Problem("", " ".join(str(error).split()), "")


def _state(
    config: StreamConfig, slot: Slot | None, records: Records
) -> tuple[StreamState, str, datetime | None]:
    """Return a stream's state, the reason for it, and since when it lasts."""
    reports = records.reports
    if slot and slot.active_pid is not None:
        return _state_with_reader(slot, records)
    if slot and slot.lost:
        return StreamState.LOST, slot.lost, slot.inactive_since
    waiting = waiting_of(reports, timezone.now(), unread=True)
    for state in (ListenerState.RETRYING, ListenerState.STANDBY):
        for report in waiting:
            if report.state == state:
                # A standby's reason is the other listener, which no longer reads.
                standby = state == ListenerState.STANDBY
                reason = "" if standby else report.reason
                return StreamState(state), reason, report.since
    last = next(iter(reports), None)
    if slot is None and config.durable_slot:
        return StreamState.MISSING, "", None
    if last and last.state in {ListenerState.STOPPED, ListenerState.FAILED}:
        return StreamState(last.state), last.reason, last.since
    reason = _KILLED if last else ""
    since = slot.inactive_since if slot else None
    return StreamState.STOPPED, reason, since or (last.updated_at if last else None)


def _state_with_reader(
    slot: Slot, records: Records
) -> tuple[StreamState, str, datetime | None]:
    reports = records.reports
    report = reader_of(slot, reports)
    if report is not None:
        state, reason, since = StreamState(report.state), report.reason, report.since
        if failing := failing_of(report):
            reason = reason or ". ".join(map(str, failing))
            if state == StreamState.RUNNING:
                state, since = StreamState.FAILING, min(each.since for each in failing)
        return state, reason, since
    if slot.application and not slot.application.startswith("walex_django"):
        return StreamState.TAKEN, slot.application, slot.since
    if records.locked:
        return StreamState.UNREACHABLE, _text(records.problems[0]), None
    if records.parked is None:  # nothing can be reported
        return StreamState.RUNNING, "", slot.since
    # The reader has not reported that it delivers. It may be a listener that retries.
    for report in waiting_of(reports, timezone.now(), unread=False):
        if report.state == ListenerState.RETRYING:
            return StreamState.RETRYING, report.reason, report.since
    return StreamState.STARTING, "", slot.since
