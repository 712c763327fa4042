"""
Replication slots: where a server remembers how far we have read.

Source: PostgreSQL, "Replication Management Functions" and "pg_replication_slots".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from walex_django.pgoutput.lsn import Lsn

from .connection import BoundedConnection, Connection, sql_error
from .errors import NotPrepared, SlotInUse, SlotMissing, SlotUnusable, SlotWaiting

PLUGIN = "pgoutput"
MAX_NAME_LENGTH = 63


RECREATE = "python manage.py walex_setup --recreate-slot"
"""What makes a new slot, or accepts that changes are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """
    A row of ``pg_replication_slots``, and its reader's of ``pg_stat_replication``.

    What it does not have, or what we may not see, is `None`.

    Attributes:
        slot_type: ``"logical"`` or ``"physical"``.
        active_pid: the server's process that its reader talks to.
        failover: standbys keep a copy (PostgreSQL 17).
        synced: it is such a copy.
        lost: why it cannot be read any more, or nothing.
        wal_status: whether the log that it needs is there.
        confirmed_lsn, restart_lsn: up to where all is done, and from where on the
            server keeps its log.
        lag: bytes of log that are not done.
        retained: bytes of log that the server keeps for it.
        safe_wal_size: bytes that may be written until it is lost, if there is a limit.
        inactive_since: when it was read last (PostgreSQL 17).
        client: address of the reader; `None` for a local one.
        application: what the reader calls itself.
        since: when the reader connected.
        replay_lag: how long the last thing took to be done that was sent.
    """

    name: str
    slot_type: str = "logical"
    plugin: str | None = None
    database: str | None = None
    temporary: bool = False
    active_pid: int | None = None
    failover: bool = False
    synced: bool = False
    lost: str = ""
    wal_status: str | None = None
    confirmed_lsn: Lsn | None = None
    restart_lsn: Lsn | None = None
    lag: int | None = None
    retained: int | None = None
    safe_wal_size: int | None = None
    inactive_since: datetime | None = None
    client: str | None = None
    application: str = ""
    since: datetime | None = None
    replay_lag: timedelta | None = None


# As JSON, for the columns differ between versions.
_ASK: LiteralString = """
WITH log AS (
    SELECT pg_is_in_recovery() AS standby, CASE WHEN pg_is_in_recovery()
        THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn
)
SELECT to_jsonb(slot) || jsonb_build_object(
    'standby', log.standby,
    'lag', (log.lsn - slot.confirmed_flush_lsn)::bigint,
    'retained', (log.lsn - slot.restart_lsn)::bigint,
    'client', host(reader.client_addr),
    'application', reader.application_name,
    'since', reader.backend_start,
    'replay_lag', extract(epoch FROM reader.replay_lag))
FROM log CROSS JOIN pg_catalog.pg_replication_slots AS slot
LEFT JOIN pg_catalog.pg_stat_replication AS reader ON reader.pid = slot.active_pid
"""


def find(connection: Connection, name: str) -> Slot | None:
    """Return the slot of that name, or `None`."""
    row = connection.execute(_ASK + "WHERE slot.slot_name = %s", [name]).fetchone()
    return None if row is None else _slot(**row[0])


def every(connection: Connection) -> list[Slot]:
    """Return all slots of the server, of other databases too, by name."""
    rows = connection.execute(_ASK + "ORDER BY slot.slot_name")
    return [_slot(**columns) for (columns,) in rows]


def require(connection: Connection, name: str) -> Slot:
    """
    Return the slot of that name.

    Raises:
        SlotMissing: it is not there.
    """
    slot = find(connection, name)
    if slot is None:
        raise SlotMissing(
            f'The slot "{name}" does not exist.',
            hint="Run: python manage.py walex_setup",
        )
    return slot


def _slot(
    *,
    slot_name: str,
    confirmed_flush_lsn: str | None,
    restart_lsn: str | None,
    standby: bool,
    **columns: Any,
) -> Slot:
    reason = columns.get("invalidation_reason") or ""
    if columns["wal_status"] == "lost":
        reason = reason or "wal_removed"
    elif columns.get("conflicting"):
        reason = reason or "conflict with recovery"
    return Slot(
        name=slot_name,
        failover=columns.get("failover", False),
        synced=columns.get("synced", False) and standby,
        lost=reason,
        confirmed_lsn=Lsn.parse(confirmed_flush_lsn) if confirmed_flush_lsn else None,
        restart_lsn=Lsn.parse(restart_lsn) if restart_lsn else None,
        inactive_since=_time(columns.get("inactive_since")),
        since=_time(columns["since"]),
        application=columns["application"] or "",
        replay_lag=_seconds(columns["replay_lag"]),
        **{key: columns[key] for key in _SAME},
    )


_SAME = (
    *("slot_type", "plugin", "database", "temporary", "active_pid", "wal_status"),
    *("lag", "retained", "safe_wal_size", "client"),
)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _seconds(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """
    What the server counts of a slot.

    Attributes:
        since: when it began to, in microseconds since 1970; a crash and a reset begin
            anew.
        transactions: those decoded since. Zero for a slot that nobody has read.
    """

    since: int
    transactions: int


_STATISTICS = """
SELECT (extract(epoch FROM greatest(slot.stats_reset, server.stats_reset))
        * 1000000)::bigint, slot.total_txns
FROM pg_catalog.pg_stat_replication_slots AS slot, pg_catalog.pg_stat_bgwriter AS server
WHERE slot.slot_name = %s
"""


def statistics(connection: Connection, name: str) -> SlotStatistics | None:
    """Return what the server counts of a slot; `None` where it keeps no account."""
    row = connection.execute(_STATISTICS, [name]).fetchone()
    return None if row is None or row[0] is None else SlotStatistics(*row)


def check(slot: Slot, *, database: str, durable: bool) -> None:
    """
    Raise unless a stream can read from the slot.

    Args:
        slot: one that is there.
        database: name of the stream's.
        durable: the stream's slot is to outlive its connection.

    Raises:
        SlotInUse: somebody reads from it.
        SlotWaiting: it is the copy that a standby keeps.
        SlotUnusable: it is of another plugin or database, or its log is gone.
    """
    if slot.synced:
        raise SlotWaiting(
            f'The slot "{slot.name}" is a copy that this standby keeps, to be read once'
            " it is promoted."
        )
    if slot.plugin != PLUGIN or slot.database != database:
        raise SlotUnusable(
            f'The slot "{slot.name}" is there already, of plugin'
            f" {slot.plugin or 'none'} and database {slot.database or 'none'}; needed"
            f" are {PLUGIN} and {database}.",
            hint="Give this stream another SLOT_NAME.",
        )
    if slot.active_pid is not None:
        raise SlotInUse(
            f'The slot "{slot.name}" is in use by the process {slot.active_pid} of'
            " PostgreSQL.",
            hint="Stop the other listener, or give this stream a SLOT_NAME of its own.",
        )
    if not durable:
        raise SlotUnusable(
            f'The slot "{slot.name}" is there already, and this stream would make a'
            " temporary one.",
            hint="Set DURABLE_SLOT = True to read from it, give this stream another"
            " SLOT_NAME, or run: python manage.py walex_teardown",
        )
    if slot.lost:
        read = (
            f", and was read up to {slot.confirmed_lsn}" if slot.confirmed_lsn else ""
        )
        raise SlotUnusable(
            f'The slot "{slot.name}" is lost ({_LOST.get(slot.lost, slot.lost)}){read}.'
            " What was written since cannot be delivered.",
            hint=f"To go on from the end of the log, run: {RECREATE}",
        )


def require_copied(slot: Slot) -> None:
    """
    Raise unless standbys keep a copy of the slot.

    Raises:
        NotPrepared: they do not.
    """
    if not slot.failover:
        raise NotPrepared(
            f'Standbys keep no copy of the slot "{slot.name}", and FAILOVER is set.',
            hint="Run: python manage.py walex_setup",
        )


_LOST = {
    "wal_removed": "the server removed log that it had not read,"
    " see max_slot_wal_keep_size",
    "rows_removed": "the primary removed rows of the catalogue that it needed, see"
    " hot_standby_feedback",
    "wal_level_insufficient": "wal_level was lowered",
    "idle_timeout": "nobody read from it for idle_replication_slot_timeout",
}


def create_statement(
    name: str, *, temporary: bool = False, failover: bool = False
) -> sql.Composed:
    """Return the SQL that creates a slot for `PLUGIN`."""
    arguments: list[sql.Composable] = [
        sql.Literal(name),
        sql.Literal(PLUGIN),
        sql.Literal(temporary),
    ]
    if failover:
        arguments.append(sql.SQL("failover => true"))
    return sql.SQL("SELECT pg_catalog.pg_create_logical_replication_slot({})").format(
        sql.SQL(", ").join(arguments)
    )


def failover_statement(name: str) -> sql.Composed:
    """Return the replication command that lets standbys keep a copy of a slot."""
    return sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER true)").format(
        sql.Identifier(name)
    )


def create(connection: BoundedConnection, name: str, *, temporary: bool) -> None:
    """
    Create a slot; it starts at the current end of the log.

    Waits until all transactions that are writing have ended.

    Args:
        name: lower-case letters, digits and underscores, at most 63.
        temporary: tied to this connection, and gone with it.

    Raises:
        NotPrepared: the role may not, or the server has no slot to spare.
        ReplicationError: the server refused for another reason.
    """
    timeout, connection.answer_timeout = connection.answer_timeout, math.inf
    try:
        connection.execute(create_statement(name, temporary=temporary))
    except psycopg.Error as error:
        raise sql_error(error, slot=name) from error
    finally:
        connection.answer_timeout = timeout


def advance(connection: Connection, name: str, lsn: Lsn) -> None:
    """
    Acknowledge a position without streaming.

    Raises:
        ReplicationError: the server refused, or is not there.
    """
    try:
        connection.execute(
            "SELECT pg_catalog.pg_replication_slot_advance(%s, %s)", [name, str(lsn)]
        )
    except psycopg.Error as error:
        raise sql_error(error, slot=name) from error


def drop_statement(name: str) -> sql.Composed:
    """Return the SQL that drops a slot."""
    return sql.SQL("SELECT pg_catalog.pg_drop_replication_slot({})").format(
        sql.Literal(name)
    )


def drop(connection: Connection, name: str) -> None:
    """
    Drop a slot that nobody reads.

    Raises:
        SlotInUse: somebody does.
        SlotMissing: it is not there.
    """
    try:
        connection.execute(drop_statement(name))
    except psycopg.Error as error:
        raise sql_error(error, slot=name) from error
