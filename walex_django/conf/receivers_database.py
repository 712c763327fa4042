"""The receivers' database: with parked events and checkpoints, and what goes wrong."""

from __future__ import annotations

import psycopg
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections, router
from psycopg.errors import (
    InsufficientPrivilege,
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

_TABLES = (
    "walex_django_checkpoint, walex_django_listenerreport, walex_django_parkedevent,"
    " walex_django_streamsample, walex_django_streamsetting"
)


def database() -> str:
    """Return the alias of the database that has the checkpoints."""
    return router.db_for_write(Checkpoint)


def known_error(error: DatabaseError) -> ReplicationError | None:
    """Return the error of ours for one of this database, if there is one."""
    said, cause, alias = _said(error), error.__cause__, database()
    if is_unmigrated(error):
        return NotPrepared(
            f"The database {alias!r} lacks a table of walex_django: {said}.",
            hint=f"Run: python manage.py migrate walex_django --database {alias}",
        )
    if isinstance(cause, InsufficientPrivilege):
        return NotPrepared(
            f"The database {alias!r} refused: {said}.",
            hint="Let its role read and write the tables of walex_django: GRANT SELECT,"
            f" INSERT, UPDATE, DELETE ON {_TABLES} TO …",
        )
    # A server that is not promoted yet takes no writes.
    if isinstance(cause, ReadOnlySqlTransaction):
        return ConnectionLost(f"The database {alias!r} takes no writes: {said}.")
    if isinstance(error, OperationalError | InterfaceError):
        return ConnectionLost(f"The receivers' database was lost: {said}.")
    return None


def is_unmigrated(error: DatabaseError) -> bool:
    """Return whether a table is missing."""
    return isinstance(error.__cause__, UndefinedTable) or (
        "no such table" in str(error)
    )


def _said(error: DatabaseError) -> str:
    cause = error.__cause__
    return one_line(cause) if isinstance(cause, psycopg.Error) else str(error)


def connect(alias: str) -> None:
    """
    Connect to a database of Django's.

    Args:
        alias: in ``DATABASES``.

    Raises:
        CannotConnect: no server there, or it refused.
    """
    try:
        connections[alias].ensure_connection()
    except OperationalError as error:
        cause = error.__cause__
        # Of other databases nobody tells us more.
        passing = not isinstance(cause, psycopg.Error)
        raise CannotConnect(
            f"Cannot connect to the database {alias!r}: {_said(error)}.",
            hint="Check that it runs, and what DATABASES has of it.",
            passing=passing or may_pass(libpq_parameters(alias), cause),
        ) from error
