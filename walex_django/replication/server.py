"""What a server must offer before a stream can start."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, LiteralString

from walex_django.pgoutput.lsn import Lsn

from .connection import Connection
from .errors import NotPrepared

MINIMUM_VERSION = 150000
_FAILOVER_VERSION = 170000
_SENDER_TIMEOUT = 60.0  # seconds
_ROOM = 10  # slots and senders more than there are, in our advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """
    What a server is and has, and who we are there.

    Attributes:
        number, version: of PostgreSQL.
        wal_level: how much it logs.
        role, database: ours.
        may_replicate: our role may.
        slots, max_slots: replication slots that there are, and may be.
        senders, max_senders: processes that send its log, and may do so.
        keep_size: megabytes of log that it keeps for a slot; -1 without end.
        backend_pid: of the process that answers us.
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


_ASK = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
       current_setting('wal_level'), current_user, current_database(),
       rolsuper OR rolreplication OR EXISTS (
           -- Amazon keeps the attribute to itself
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
       pg_backend_pid()
FROM pg_catalog.pg_roles AS role WHERE role.rolname = current_user
"""


def read(connection: Connection) -> Server:
    """Return what a server is. Args: connection: of the role that will replicate."""
    (row,) = connection.execute(_ASK)
    names = [each.name for each in fields(Server)]
    return Server(**dict(zip(names, row, strict=True)))


def prepared_database(connection: Connection) -> str:
    """
    Return the name of the connected database, once it is known that it can stream.

    Args:
        connection: an ordinary one, of the role that will replicate.

    Raises:
        NotPrepared: the server is too old, does not log enough, or the role may not
            replicate; with the SQL that mends it.
    """
    server = read(connection)
    require_version(server)
    require_wal_level(server)
    require_role(server)
    return server.database


def require_version(server: Server) -> None:
    """Raise `NotPrepared` if a server is too old."""
    if server.number < MINIMUM_VERSION:
        raise NotPrepared(
            f"PostgreSQL {server.version} is too old: walex_django needs 15 or newer.",
            hint="Upgrade PostgreSQL.",
        )


def require_wal_level(server: Server) -> None:
    """Raise `NotPrepared` if a server does not log enough."""
    if server.wal_level != "logical":
        raise NotPrepared(
            f"The server runs with wal_level={server.wal_level}.",
            hint="Run as superuser: ALTER SYSTEM SET wal_level = 'logical'; then"
            " restart PostgreSQL.",
        )


def require_role(server: Server) -> None:
    """Raise `NotPrepared` if the role may not replicate."""
    if not server.may_replicate:
        raise NotPrepared(
            f'The role "{server.role}" may not replicate.',
            hint=f'Run as superuser: ALTER ROLE "{server.role}" REPLICATION;',
        )


def require_free_slot(server: Server) -> None:
    """Raise `NotPrepared` if a server can have no further slot."""
    if server.slots >= server.max_slots:
        raise NotPrepared(
            "The server has no slot to spare: all replication slots are in use.",
            hint=_or_raise(_DROP, "max_replication_slots", server.slots),
        )


def require_free_sender(server: Server) -> None:
    """Raise `NotPrepared` if a server can have no further reader of its log."""
    if server.senders >= server.max_senders:
        raise NotPrepared(
            f"The server sends its log to {server.senders} readers already, and"
            f" max_wal_senders is {server.max_senders}.",
            hint=_or_raise(_END, "max_wal_senders", server.senders),
        )


def _or_raise(other: str, limit: str, used: int) -> str:
    return (
        f"{other}, or run as superuser: ALTER SYSTEM SET {limit} = {used + _ROOM};"
        " then restart PostgreSQL."
    )


_DROP = (
    "Drop a slot that nobody reads (SELECT * FROM pg_replication_slots) with:"
    " python manage.py walex_teardown --slot NAME"
)
_END = "End a reader that is not needed (SELECT * FROM pg_stat_replication)"


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
