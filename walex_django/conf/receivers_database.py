"""The receivers' database, which stores checkpoints and parked events."""

from __future__ import annotations

import psycopg
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections, router
from psycopg.errors import (
    InsufficientPrivilege,
    LockNotAvailable,
    QueryCanceled,
    ReadOnlySqlTransaction,
    UndefinedTable,
)

from walex_django.models import Checkpoint
from walex_django.replication.connection import Connection, may_pass, one_line
from walex_django.replication.errors import (
    CannotConnect,
    ConnectionLost,
    NotPrepared,
    ReplicationError,
)

from .own_tables import locked_error
from .stream import libpq_parameters

_TABLES = (
    "walex_django_checkpoint, walex_django_gap, walex_django_listenerreport,"
    " walex_django_parkedevent, walex_django_streamsample, walex_django_streamsetting"
)


def database() -> str:
    """Return the alias of the database that stores the checkpoints."""
    return router.db_for_write(Checkpoint)


def psycopg_connection() -> Connection | None:
    """Return psycopg's connection to this database, if it is open and psycopg's."""
    connection = connections[database()].connection
    return connection if isinstance(connection, psycopg.Connection) else None


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
    if isinstance(cause, LockNotAvailable):
        return locked_error(cause, alias)
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
