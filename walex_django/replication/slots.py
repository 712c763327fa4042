"""
Replication slots: the server's record of how far a stream was read.

Source: PostgreSQL, "Replication Management Functions" and "pg_replication_slots".
"""

from __future__ import annotations

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
"""The command that recreates the slot, or accepts that changes are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """
    A row of ``pg_replication_slots`` joined with its ``pg_stat_replication`` row.

    Values that don't exist, or that the role may not see, are `None`.

    Attributes:
        slot_type: ``"logical"`` or ``"physical"``.
        active_pid: The process ID of the walsender that is using the slot.
        failover: Whether the slot is synchronized to standbys (PostgreSQL 17).
        synced: Whether the slot is a standby's synchronized copy.
        lost: The reason why the slot can't be read any more; empty if it can.
        wal_status: The availability of the WAL that the slot needs.
        confirmed_lsn: The position up to which everything was acknowledged.
        restart_lsn: The position from which the server retains WAL.
        lag: Bytes of WAL that were not acknowledged yet.
        retained: Bytes of WAL that the server retains for the slot.
        safe_wal_size: Bytes of WAL that may be written before the slot is lost, if
            there is a limit.
        inactive_since: The time when the slot was last read (PostgreSQL 17).
        client: The address of the connected client; `None` for a local one.
        application: The client's ``application_name``.
        since: The time when the client connected.
        replay_lag: The time between sending the latest WAL and its acknowledgement.
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

    @property
    def is_being_created(self) -> bool:
        """Whether its creation is still waiting for running transactions."""
        return self.active_pid is not None and self.confirmed_lsn is None


# As JSON, because the columns differ between versions of PostgreSQL.
_QUERY: LiteralString = """
WITH wal AS (
    SELECT pg_is_in_recovery() AS standby, CASE WHEN pg_is_in_recovery()
        THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn
)
SELECT to_jsonb(slot) || jsonb_build_object(
    'standby', wal.standby,
    'lag', (wal.lsn - slot.confirmed_flush_lsn)::bigint,
    'retained', (wal.lsn - slot.restart_lsn)::bigint,
    'client', host(sender.client_addr),
    'application', sender.application_name,
    'since', sender.backend_start,
    'replay_lag', extract(epoch FROM sender.replay_lag))
FROM wal CROSS JOIN pg_catalog.pg_replication_slots AS slot
LEFT JOIN pg_catalog.pg_stat_replication AS sender ON sender.pid = slot.active_pid
"""


def find(connection: Connection, name: str) -> Slot | None:
    """Return the slot with that name, or `None`."""
    row = connection.execute(_QUERY + "WHERE slot.slot_name = %s", [name]).fetchone()
    return None if row is None else _slot(**row[0])


def every(connection: Connection) -> list[Slot]:
    """Return all slots of the server, including other databases', sorted by name."""
    rows = connection.execute(_QUERY + "ORDER BY slot.slot_name")
    return [_slot(**columns) for (columns,) in rows]


def require(connection: Connection, name: str) -> Slot:
    """
    Return the slot with that name.

    Raises:
        SlotMissing: The slot does not exist.
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
        **{key: columns[key] for key in _UNCONVERTED},
    )


_UNCONVERTED = (
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
    The server's statistics of a slot.

    Attributes:
        since: The time when the server started counting, in microseconds since 1970.
            A crash or a reset of the statistics restarts it.
        transactions: The number of transactions decoded since; zero for a slot that was
            never read.
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
    """Return the server's statistics of a slot; `None` if it has none."""
    row = connection.execute(_STATISTICS, [name]).fetchone()
    return None if row is None or row[0] is None else SlotStatistics(*row)


def check(slot: Slot, *, database: str, durable: bool) -> None:
    """
    Raise an exception unless a stream can read from the slot.

    Args:
        slot: An existing slot.
        database: The name of the stream's database.
        durable: Whether the stream's slot is durable.

    Raises:
        SlotInUse: Another process is reading from the slot.
        SlotWaiting: The slot is a standby's synchronized copy.
        SlotUnusable: The slot has another plugin or database, is lost, or exists
            although the stream creates a temporary one.
    """
    if slot.synced:
        raise SlotWaiting(
            f'The slot "{slot.name}" is a standby\'s copy. It can be read once this'
            " server is promoted."
        )
    if slot.plugin != PLUGIN or slot.database != database:
        raise SlotUnusable(
            f'The slot "{slot.name}" already exists with plugin'
            f" {slot.plugin or 'none'} and database {slot.database or 'none'}; this"
            f" stream requires plugin {PLUGIN} and database {database}.",
            hint="Give this stream a different SLOT_NAME.",
        )
    if slot.is_being_created:
        raise SlotInUse(
            f'The slot "{slot.name}" is being created by the PostgreSQL process'
            f" {slot.active_pid}, which waits for running transactions to end.",
            hint="Wait until it is done, then run this again.",
        )
    if slot.active_pid is not None:
        raise SlotInUse(
            f'The slot "{slot.name}" is in use by the PostgreSQL process'
            f" {slot.active_pid}.",
            hint="Stop the other listener, or give this stream a different SLOT_NAME.",
        )
    if not durable:
        raise SlotUnusable(
            f'The slot "{slot.name}" already exists, but this stream would create a'
            " temporary one.",
            hint="Set DURABLE_SLOT = True to read from it, give this stream a different"
            " SLOT_NAME, or drop the slot with: python manage.py walex_teardown",
        )
    if slot.lost:
        read = (
            f", and was read up to {slot.confirmed_lsn}" if slot.confirmed_lsn else ""
        )
        raise SlotUnusable(
            f'The slot "{slot.name}" is lost ({_LOST.get(slot.lost, slot.lost)}){read}.'
            " Changes not yet read from it cannot be delivered.",
            hint=f"To resume from the current end of the WAL, run: {RECREATE}",
        )


def require_copied(slot: Slot) -> None:
    """
    Raise an exception unless the slot is synchronized to standbys.

    Raises:
        NotPrepared: The slot isn't synchronized.
    """
    if not slot.failover:
        raise NotPrepared(
            f'FAILOVER is set, but standbys keep no copy of the slot "{slot.name}".',
            hint="Run: python manage.py walex_setup",
        )


_LOST = {
    "wal_removed": "the server removed WAL that the slot still needed; see"
    " max_slot_wal_keep_size",
    "rows_removed": "the primary removed catalog rows that the slot needed; see"
    " hot_standby_feedback",
    "wal_level_insufficient": "wal_level was lowered",
    "idle_timeout": "it was idle for longer than idle_replication_slot_timeout",
}


def create_statement(
    name: str, *, temporary: bool = False, failover: bool = False
) -> sql.Composed:
    """Return the SQL that creates a slot with `PLUGIN`."""
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
    """Return the replication command that enables failover for a slot."""
    return sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER true)").format(
        sql.Identifier(name)
    )


def create(connection: BoundedConnection, name: str, *, temporary: bool) -> None:
    """
    Create a slot that starts at the current end of the WAL.

    This waits until all running write transactions have ended.

    Args:
        connection: A connection to the slot's database.
        name: The slot's name: at most 63 lower-case letters, digits and underscores.
        temporary: Whether the server drops the slot when this connection ends.

    Raises:
        NotPrepared: The role lacks the privilege, or the server has no free slot.
        ReplicationError: The server rejected the command for another reason.
    """
    try:
        with connection.long_wait():
            connection.execute(create_statement(name, temporary=temporary))
    except psycopg.Error as error:
        raise sql_error(error, slot=name) from error


def advance(connection: Connection, name: str, lsn: Lsn) -> None:
    """
    Acknowledge a position without streaming.

    Raises:
        ReplicationError: The server rejected the command or is unavailable.
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
    Drop a slot that is not in use.

    Raises:
        SlotInUse: Another process is reading from the slot.
        ReplicationError: The slot does not exist, or the server rejected the command.
    """
    try:
        connection.execute(drop_statement(name))
    except psycopg.Error as error:
        raise sql_error(error, slot=name) from error
