"""
Replication slots: where a server remembers how far we have read.

Source: PostgreSQL, "Replication Management Functions" and "pg_replication_slots".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import kwargs_row

from walex_django.pgoutput.lsn import Lsn

from .connection import Connection, sql_error
from .errors import SlotInUse, SlotUnusable

PLUGIN = "pgoutput"
MAX_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A row of ``pg_replication_slots``; positions are `None` where it has none."""

    name: str
    plugin: str | None
    database: str | None
    temporary: bool
    active_pid: int | None
    wal_status: str | None
    restart_lsn: Lsn | None
    confirmed_lsn: Lsn | None


_FIND = """
SELECT slot_name AS name, plugin, database, temporary, active_pid, wal_status,
       (restart_lsn - '0/0')::bigint AS restart_lsn,
       (confirmed_flush_lsn - '0/0')::bigint AS confirmed_lsn
FROM pg_catalog.pg_replication_slots
WHERE slot_name = %s
"""


def find(connection: Connection, name: str) -> Slot | None:
    """Return the slot of that name, or `None`."""
    with connection.cursor(row_factory=kwargs_row(_slot)) as cursor:
        return cursor.execute(_FIND, [name]).fetchone()


def _slot(
    *, restart_lsn: int | None, confirmed_lsn: int | None, **columns: Any
) -> Slot:
    return Slot(
        restart_lsn=None if restart_lsn is None else Lsn(restart_lsn),
        confirmed_lsn=None if confirmed_lsn is None else Lsn(confirmed_lsn),
        **columns,
    )


def check(slot: Slot, *, database: str, durable: bool) -> None:
    """
    Raise unless a stream can read from the slot.

    Args:
        slot: one that is there.
        database: name of the stream's.
        durable: the stream's slot is to outlive its connection.

    Raises:
        SlotInUse: somebody reads from it.
        SlotUnusable: it is of another plugin or database, or its log is gone.
    """
    if slot.active_pid is not None:
        raise SlotInUse(
            f'The slot "{slot.name}" is in use by the process {slot.active_pid} of'
            " PostgreSQL.",
            hint="Stop the other listener, or give this stream a SLOT_NAME of its own.",
        )
    if slot.plugin != PLUGIN or slot.database != database:
        raise SlotUnusable(
            f'The slot "{slot.name}" is there already, of plugin'
            f" {slot.plugin or 'none'} and database {slot.database or 'none'}; needed"
            f" are {PLUGIN} and {database}.",
            hint="Give this stream another SLOT_NAME.",
        )
    if not durable:
        raise SlotUnusable(
            f'The slot "{slot.name}" is there already, and this stream would make a'
            " temporary one.",
            hint="Set DURABLE_SLOT = True to read from it, give this stream another"
            " SLOT_NAME, or run: python manage.py walex_teardown",
        )
    if slot.wal_status == "lost":
        raise SlotUnusable(
            f'The slot "{slot.name}" is lost: the server removed log that it had not'
            " read (max_slot_wal_keep_size).",
            hint="Run: python manage.py walex_teardown && python manage.py walex_setup "
            "(changes since are not delivered)",
        )


def create_statement(name: str, *, temporary: bool) -> sql.Composed:
    """Return the SQL that creates a slot for `PLUGIN`."""
    return sql.SQL(
        "SELECT pg_catalog.pg_create_logical_replication_slot({}, {}, {})"
    ).format(sql.Literal(name), sql.Literal(PLUGIN), sql.Literal(temporary))


def create(connection: Connection, name: str, *, temporary: bool) -> None:
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
    try:
        connection.execute(create_statement(name, temporary=temporary))
    except psycopg.Error as error:
        raise sql_error(error, slot=name) from error


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
