"""
Reading the status of streams from their servers and the receivers' database.

Source: PostgreSQL, "pg_replication_slots" and "pg_stat_replication".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import router, transaction
from django.utils import timezone

from walex_django.conf import receivers_database, stored
from walex_django.conf.configs import get_configs
from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.diagnosis.problems import find_problems
from walex_django.models import (
    ListenerReport,
    ListenerState,
    ParkedEvent,
    StreamSample,
)
from walex_django.replication import publications, server, slots
from walex_django.replication.connection import Connection, connect, sql_error
from walex_django.replication.errors import ReplicationError
from walex_django.replication.publications import PublishedTable
from walex_django.replication.slots import Slot

from .status import (
    HISTORY,
    Account,
    OtherSlot,
    Overview,
    StreamState,
    StreamStatus,
    reader_of,
    waiting_of,
)

_TIMEOUT = 3  # seconds to wait for a server


def inspect_all(configs: Iterable[StreamConfig], *, diagnose: bool = True) -> Overview:
    """
    Ask how streams are.

    A server that does not answer makes its streams `StreamState.UNREACHABLE`, and is no
    error.

    Args:
        configs: of the streams.
        diagnose: ask also what is wrong, what the publications send, and for other
            slots. With many tables this takes time.
    """
    # Which server a stream is on that is not asked, nobody knows.
    configured = {config.slot_name for config in get_configs().values()}
    streams: list[StreamStatus] = []
    others: dict[tuple[int, str], OtherSlot] = {}
    away: dict[tuple[str, str | None], ReplicationError] = {}
    for written in configs:
        place = written.database, written.url
        config, account = _account(written)
        if place not in away:
            try:
                parameters = config.connection_parameters()
                with connect(parameters, timeout=_TIMEOUT) as connection:
                    found = inspect(config, connection, account, diagnose=diagnose)
                    every: Sequence[Slot] = ()
                    if diagnose:
                        system, _ = server.identity(connection)
                        every = slots.every(connection)
                    streams.append(found)
                    for slot in every:
                        if slot.name not in configured:
                            other = OtherSlot(slot=slot, config=config, system=system)
                            others.setdefault((system, slot.name), other)
                continue
            except psycopg.Error as error:
                away[place] = sql_error(error, slot=config.slot_name)
            except ReplicationError as error:
                away[place] = error
        streams.append(_unreachable(config, account, away[place]))
    return Overview(streams=streams, others=list(others.values()))


def inspect(
    config: StreamConfig,
    connection: Connection,
    account: Account,
    *,
    diagnose: bool = True,
) -> StreamStatus:
    """
    Ask how a stream is.

    Args:
        config: of the stream.
        connection: to its database.
        account: of the stream.
        diagnose: ask also what is wrong, and what the publications send.

    Raises:
        psycopg.Error: the server did not tell.
    """
    slot = slots.find(connection, config.slot_name)
    state, reason, since = _state(config, slot, account.reports)
    tables: Sequence[PublishedTable] = ()
    problems = list(account.problems)
    if diagnose:
        tables = publications.published(connection, config.publications)
        problems += find_problems(config, connection)
    return StreamStatus(
        config=config,
        state=state,
        reason=reason,
        since=since,
        server_version=connection.info.parameter_status("server_version") or "",
        slot=slot,
        tables=tables,
        problems=problems,
        account=account,
    )


def _unreachable(
    config: StreamConfig, account: Account, error: ReplicationError
) -> StreamStatus:
    return StreamStatus(
        config=config,
        state=StreamState.UNREACHABLE,
        reason=str(error),
        problems=account.problems,
        account=account,
    )


def _account(written: StreamConfig) -> tuple[StreamConfig, Account]:
    """Return a stream's configuration and what else is kept of it."""
    name = written.name
    account = Account()
    try:
        using = router.db_for_read(ListenerReport)
        # In a request all may be one transaction, which an error would break.
        with transaction.atomic(using):
            reports = ListenerReport.objects.using(using).filter(stream=name)
            samples = StreamSample.objects.using(using).filter(
                stream=name, at__gt=timezone.now() - HISTORY
            )
            account = Account(
                reports=list(reports.order_by("-updated_at")),
                samples=list(samples.order_by("at")),
                parked=ParkedEvent.objects.filter(stream=name).count(),
                changed=stored.kept(name),
            )
        return stored.refreshed(written), account
    except DatabaseError as error:
        known = receivers_database.known_error(error)
        return written, replace(account, problems=[_problem(known or error)])
    except ImproperlyConfigured as error:
        return written, replace(account, problems=[_problem(error)])


def _problem(error: Exception) -> Problem:
    if isinstance(error, ReplicationError):
        return Problem("", error.reason, error.hint)
    return Problem("", " ".join(str(error).split()), "")


def _state(
    config: StreamConfig, slot: Slot | None, reports: Sequence[ListenerReport]
) -> tuple[StreamState, str, datetime | None]:
    """Return what becomes of a stream's changes, why, and since when."""
    if slot and slot.active_pid is not None:
        return _read_state(slot, reports)
    if slot and slot.lost:
        return StreamState.LOST, slot.lost, slot.inactive_since
    waiting = waiting_of(reports, timezone.now(), unread=True)
    for state in (ListenerState.RETRYING, ListenerState.STANDBY):
        for report in waiting:
            if report.state == state:
                # Why it waited has passed: the other listener does not read any more.
                waits = state == ListenerState.STANDBY
                return StreamState(state), "" if waits else report.reason, report.since
    last = next(iter(reports), None)
    if slot is None and config.durable_slot:
        return StreamState.MISSING, "", None
    if last and last.state in {ListenerState.STOPPED, ListenerState.FAILED}:
        return StreamState(last.state), last.reason, last.since
    ended = "The listener ended without a word." if last else ""
    since = slot.inactive_since if slot else None
    return StreamState.STOPPED, ended, since or (last.updated_at if last else None)


def _read_state(
    slot: Slot, reports: Sequence[ListenerReport]
) -> tuple[StreamState, str, datetime | None]:
    report = reader_of(slot, reports)
    if report is not None:
        return StreamState(report.state), report.reason, report.since
    if slot.application and not slot.application.startswith("walex_django"):
        return StreamState.TAKEN, slot.application, slot.since
    return StreamState.RUNNING, "", slot.since
