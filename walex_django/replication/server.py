"""What a server must offer before a stream can start."""

from __future__ import annotations

from typing import Any, LiteralString

from walex_django.pgoutput.lsn import Lsn

from .connection import Connection
from .errors import NotPrepared

MINIMUM_VERSION = 150000
_FAILOVER_VERSION = 170000
_SENDER_TIMEOUT = 60.0  # seconds

_ASK = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
       current_setting('wal_level'), current_user, current_database(),
       rolsuper OR rolreplication OR EXISTS (
           -- Amazon keeps the attribute to itself
           SELECT FROM pg_catalog.pg_roles AS may
           WHERE may.rolname = 'rds_replication'
           AND pg_has_role(role.oid, may.oid, 'MEMBER')
       )
FROM pg_catalog.pg_roles AS role WHERE role.rolname = current_user
"""


def prepared_database(connection: Connection) -> str:
    """
    Return the name of the connected database, once it is known that it can stream.

    Args:
        connection: an ordinary one, of the role that will replicate.

    Raises:
        NotPrepared: the server is too old, does not log enough, or the role may not
            replicate; with the SQL that mends it.
    """
    (row,) = connection.execute(_ASK)
    number, version, wal_level, role, database, may_replicate = row
    if number < MINIMUM_VERSION:
        raise NotPrepared(
            f"PostgreSQL {version} is too old: walex_django needs 15 or newer."
        )
    if wal_level != "logical":
        raise NotPrepared(
            f"The server runs with wal_level={wal_level}.",
            hint="Run as superuser: ALTER SYSTEM SET wal_level = 'logical'; then"
            " restart PostgreSQL.",
        )
    if not may_replicate:
        raise NotPrepared(
            f'The role "{role}" may not replicate.',
            hint=f'Run as superuser: ALTER ROLE "{role}" REPLICATION;',
        )
    return str(database)


def require_failover(connection: Connection) -> None:
    """Raise `NotPrepared` unless the server's standbys can keep copies of slots."""
    if connection.info.server_version < _FAILOVER_VERSION:
        version = connection.info.parameter_status("server_version")
        raise NotPrepared(
            f"FAILOVER needs PostgreSQL 17 or newer, and the server is {version}.",
            hint="Leave it out.",
        )


IDENTITY: LiteralString = (
    "SELECT system_identifier, current_database() FROM pg_control_system()"
)


def identity(connection: Connection) -> tuple[int, str]:
    """Return the system identifier of the server and the name of the database."""
    ((system, database),) = connection.execute(IDENTITY)
    return system, database


def log_position(connection: Connection) -> Lsn:
    """Return the end of the log."""
    return Lsn(
        _value(
            connection,
            "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
            " ELSE pg_current_wal_lsn() END - '0/0')::bigint",
        )
    )


def timeline(connection: Connection) -> int:
    """Return the timeline that the server is on."""
    return int(
        _value(
            connection,
            # The control file learns of a promotion at the checkpoint after it.
            "SELECT CASE WHEN pg_is_in_recovery()"
            " THEN (SELECT timeline_id FROM pg_control_checkpoint())"
            " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))"
            "::bit(32)::int END",
        )
    )


def is_standby(connection: Connection) -> bool:
    """Return whether the server follows another one."""
    return bool(_value(connection, "SELECT pg_is_in_recovery()"))


def sender_timeout(connection: Connection) -> float:
    """Return the seconds of silence that end a stream; PostgreSQL's default if none."""
    milliseconds = _value(
        connection,
        "SELECT setting::int FROM pg_catalog.pg_settings"
        " WHERE name = 'wal_sender_timeout'",
    )
    return milliseconds / 1000 or _SENDER_TIMEOUT


def _value(connection: Connection, query: LiteralString) -> Any:
    ((value,),) = connection.execute(query)
    return value
