"""The receivers' database, which stores checkpoints and parked events."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from django.db import Error as DatabaseError
from django.db import (
    InterfaceError,
    InternalError,
    OperationalError,
    connections,
    router,
    transaction,
)
from psycopg.errors import (
    InsufficientPrivilege,
    QueryCanceled,
    ReadOnlySqlTransaction,
    UndefinedTable,
)

from walex_django.models import Checkpoint
from walex_django.replication.connection import may_pass, one_line
from walex_django.replication.errors import (
    CannotConnect,
    ConnectionLost,
    NotPrepared,
    ReplicationError,
)

from .stream import libpq_parameters

STATEMENT_TIMEOUT: Final = 5.0
"""The default time limit of a statement in `bounded`, in seconds."""

_TABLES = (
    "walex_django_checkpoint, walex_django_gap, walex_django_listenerreport,"
    " walex_django_parkedevent, walex_django_streamsample, walex_django_streamsetting"
)


def database() -> str:
    """Return the alias of the database that stores the checkpoints."""
    return router.db_for_write(Checkpoint)


@contextmanager
def bounded(alias: str, seconds: float = STATEMENT_TIMEOUT) -> Iterator[None]:
    """
    Run a block in a transaction in which no statement waits long, such as for a lock.

    PostgreSQL enforces the limit, even if this process has died meanwhile. A shorter
    ``statement_timeout`` of the role or database is kept.

    Args:
        alias: The database's alias in ``DATABASES``.
        seconds: The maximum duration of a statement.

    Raises:
        django.db.OperationalError: If a statement takes longer.
    """
    connection = connections[alias]
    with transaction.atomic(using=alias):
        if connection.vendor != "postgresql":
            yield
            return
        with connection.cursor() as cursor:
            cursor.execute(_LIMIT)
            previous, milliseconds = cursor.fetchone()
            limit = min(milliseconds or math.inf, seconds * 1000)
            cursor.execute(_SET_LIMIT, [f"{limit:.0f}"])
        yield
        # The block may be a part of another transaction. If it fails, the rollback
        # restores the setting.
        with suppress(InternalError), connection.cursor() as cursor:
            cursor.execute(_SET_LIMIT, [previous])


_LIMIT = """
SELECT current_setting('statement_timeout'), setting::bigint
FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'
"""
_SET_LIMIT = "SELECT set_config('statement_timeout', %s, true)"


def known_error(error: DatabaseError) -> ReplicationError | None:
    """Convert an error of the receivers' database, if its cause is known."""
    message, cause, alias = _message(error), error.__cause__, database()
    if is_unmigrated(error):
        return NotPrepared(
            f"A table of walex_django is missing in the database {alias!r}: {message}.",
            hint=f"Run: python manage.py migrate walex_django --database {alias}",
        )
    if isinstance(cause, InsufficientPrivilege):
        return NotPrepared(
            f"The database {alias!r} denied access: {message}.",
            hint="Give its role access to the tables of walex_django: GRANT SELECT,"
            f" INSERT, UPDATE, DELETE ON {_TABLES} TO …",
        )
    # This passes when a standby that is still read-only has been promoted.
    if isinstance(cause, ReadOnlySqlTransaction):
        return ConnectionLost(f"The database {alias!r} is read-only: {message}.")
    if isinstance(cause, QueryCanceled):
        return ConnectionLost(
            f"The database {alias!r} did not answer in time: {message}.",
            hint="Another session may have locked a table of walex_django.",
        )
    if isinstance(error, OperationalError | InterfaceError):
        return ConnectionLost(
            f"Lost the connection to the receivers' database: {message}."
        )
    return None


def is_unmigrated(error: DatabaseError) -> bool:
    """Return whether an error reports that a table does not exist."""
    return isinstance(error.__cause__, UndefinedTable) or (
        "no such table" in str(error)
    )


@contextmanager
def own_writes(alias: str) -> Iterator[None]:
    """
    Run a transaction whose COMMIT does not wait for synchronous standbys.

    Inside a transaction of the application, that one's setting applies.

    Args:
        alias: The database's alias in ``DATABASES``.
    """
    connection = connections[alias]
    is_outermost = not connection.in_atomic_block
    with transaction.atomic(using=alias):
        if is_outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(_LOCAL_COMMIT)
        yield


# "off" waits for even less.
_LOCAL_COMMIT = """
SELECT pg_catalog.set_config('synchronous_commit', 'local', true)
WHERE pg_catalog.current_setting('synchronous_commit') <> 'off'
"""


def _message(error: DatabaseError) -> str:
    cause = error.__cause__
    return one_line(cause) if isinstance(cause, psycopg.Error) else str(error)


def connect(alias: str) -> None:
    """
    Open Django's connection to a database.

    Args:
        alias: The database's alias in ``DATABASES``.

    Raises:
        CannotConnect: If the server can't be reached or refuses the connection.
    """
    try:
        connections[alias].ensure_connection()
    except OperationalError as error:
        cause = error.__cause__
        # Only errors of psycopg show whether a retry is pointless.
        passing = not isinstance(cause, psycopg.Error)
        raise CannotConnect(
            f"Cannot connect to the database {alias!r}: {_message(error)}.",
            hint="Check that it is running, and check its settings in DATABASES.",
            passing=passing or may_pass(libpq_parameters(alias), cause),
        ) from error
