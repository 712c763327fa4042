"""The server's properties, and the requirements that a stream has of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, LiteralString

from walex_django.pgoutput.lsn import Lsn

from .connection import Connection
from .errors import NotPrepared

MINIMUM_VERSION = 150000
_FAILOVER_VERSION = 170000
_DEFAULT_SENDER_TIMEOUT = 60.0  # seconds
_HEADROOM = 10  # spare slots or walsenders that the hints recommend


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """
    The properties of a server and of the connection to it.

    Attributes:
        number, version: PostgreSQL's version as an integer and as text.
        wal_level: The server's ``wal_level``.
        role, database: The role and the database of the connection.
        may_replicate: Whether the role may start replication.
        slots, max_slots: The current and the maximum number of replication slots.
        senders, max_senders: The current and the maximum number of walsenders.
        keep_size: ``max_slot_wal_keep_size`` in megabytes; -1 for no limit.
        backend_pid: The process ID of the connection's backend.
        synchronous_names: ``synchronous_standby_names``; empty on a standby.
        idle_slot_timeout: ``idle_replication_slot_timeout`` in seconds (PostgreSQL 18);
            0 for no limit.
    """

    number: int
    version: str
    wal_level: str
    role: str
    database: str
    may_replicate: bool
    slots: int
    max_slots: int
    senders: int
    max_senders: int
    keep_size: int
    backend_pid: int
    synchronous_names: str
    idle_slot_timeout: int


_QUERY = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
       current_setting('wal_level'), current_user, current_database(),
       rolsuper OR rolreplication OR EXISTS (
           -- Amazon RDS has a role in place of the attribute
           SELECT FROM pg_catalog.pg_roles AS may
           WHERE may.rolname = 'rds_replication'
           AND pg_has_role(role.oid, may.oid, 'MEMBER')
       ),
       (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication),
       current_setting('max_wal_senders')::int,
       (SELECT setting::bigint FROM pg_catalog.pg_settings
           WHERE name = 'max_slot_wal_keep_size'),
       pg_backend_pid(),
       CASE WHEN pg_is_in_recovery() THEN ''
           ELSE current_setting('synchronous_standby_names') END,
       coalesce((SELECT setting::bigint FROM pg_catalog.pg_settings
           WHERE name = 'idle_replication_slot_timeout'), 0)
FROM pg_catalog.pg_roles AS role WHERE role.rolname = current_user
"""


def read(connection: Connection) -> Server:
    """
    Return the server's properties.

    Args:
        connection: A connection as the role that will replicate.
    """
    (row,) = connection.execute(_QUERY)
    names = [field.name for field in fields(Server)]
    return Server(**dict(zip(names, row, strict=True)))


def prepared_database(connection: Connection) -> str:
    """
    Check that the server can stream, and return the name of the connected database.

    Args:
        connection: An ordinary connection as the role that will replicate.

    Raises:
        NotPrepared: The server is too old, its ``wal_level`` is too low, or the role
            may not replicate. The hint contains the SQL that fixes it.
    """
    server = read(connection)
    require_version(server)
    require_wal_level(server)
    require_role(server)
    return server.database


def require_version(server: Server) -> None:
    """Raise `NotPrepared` if the server is too old."""
    if server.number < MINIMUM_VERSION:
        raise NotPrepared(
            f"PostgreSQL {server.version} is too old: walex_django requires"
            " PostgreSQL 15 or newer.",
            hint="Upgrade PostgreSQL.",
        )


def require_wal_level(server: Server) -> None:
    """Raise `NotPrepared` if the server's ``wal_level`` is too low."""
    if server.wal_level != "logical":
        raise NotPrepared(
            f"The server runs with wal_level={server.wal_level}, but logical"
            " replication requires wal_level=logical.",
            hint="Run as superuser: ALTER SYSTEM SET wal_level = 'logical'; then"
            " restart PostgreSQL.",
        )


def require_role(server: Server) -> None:
    """Raise `NotPrepared` if the role may not replicate."""
    if not server.may_replicate:
        raise NotPrepared(
            f'The role "{server.role}" may not start replication.',
            hint=f'Run as superuser: ALTER ROLE "{server.role}" REPLICATION;',
        )


def require_free_slot(server: Server) -> None:
    """Raise `NotPrepared` if the server has no free replication slot."""
    if server.slots >= server.max_slots:
        raise NotPrepared(
            "The server has no free slot: all replication slots are in use.",
            hint=_limit_hint(_DROP_HINT, "max_replication_slots", server.slots),
        )


def require_free_sender(server: Server) -> None:
    """Raise `NotPrepared` if the server has no free walsender."""
    if server.senders >= server.max_senders:
        raise NotPrepared(
            f"The server has no free walsender: {server.senders} are in use, and"
            f" max_wal_senders is {server.max_senders}.",
            hint=_limit_hint(_DISCONNECT_HINT, "max_wal_senders", server.senders),
        )


def _limit_hint(alternative: str, limit: str, used: int) -> str:
    return (
        f"{alternative}, or run as superuser: ALTER SYSTEM SET {limit} ="
        f" {used + _HEADROOM};"
        " then restart PostgreSQL."
    )


_DROP_HINT = (
    "Drop an unused slot (SELECT * FROM pg_replication_slots) with:"
    " python manage.py walex_teardown --slot NAME"
)
_DISCONNECT_HINT = (
    "Disconnect an unneeded replication client (SELECT * FROM pg_stat_replication)"
)


def require_failover(connection: Connection) -> None:
    """Raise `NotPrepared` unless the server can synchronize slots to standbys."""
    if connection.info.server_version < _FAILOVER_VERSION:
        version = connection.info.parameter_status("server_version")
        raise NotPrepared(
            f"FAILOVER requires PostgreSQL 17 or newer, but the server runs {version}.",
            hint="Remove FAILOVER from the stream's settings.",
        )


IDENTITY: LiteralString = (
    "SELECT system_identifier, current_database() FROM pg_control_system()"
)


def identity(connection: Connection) -> tuple[int, str]:
    """Return the server's system identifier and the name of the database."""
    ((system, database),) = connection.execute(IDENTITY)
    return system, database


def log_position(connection: Connection) -> Lsn:
    """Return the current end of the WAL."""
    return Lsn(
        _value(
            connection,
            "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
            " ELSE pg_current_wal_lsn() END - '0/0')::bigint",
        )
    )


def timeline(connection: Connection) -> int:
    """Return the server's current timeline."""
    return int(
        _value(
            connection,
            # A promotion reaches the control file only with the next checkpoint.
            "SELECT CASE WHEN pg_is_in_recovery()"
            " THEN (SELECT timeline_id FROM pg_control_checkpoint())"
            " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))"
            "::bit(32)::int END",
        )
    )


def is_standby(connection: Connection) -> bool:
    """Return whether the server is a standby."""
    return bool(_value(connection, "SELECT pg_is_in_recovery()"))


def sender_timeout(connection: Connection) -> float:
    """Return ``wal_sender_timeout`` in seconds; PostgreSQL's default if disabled."""
    milliseconds = _value(
        connection,
        "SELECT setting::int FROM pg_catalog.pg_settings"
        " WHERE name = 'wal_sender_timeout'",
    )
    return milliseconds / 1000 or _DEFAULT_SENDER_TIMEOUT


def _value(connection: Connection, query: LiteralString) -> Any:
    ((value,),) = connection.execute(query)
    return value
