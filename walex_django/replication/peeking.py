"""
What a slot would send next, without reading from it.

Source: PostgreSQL, "Replication Management Functions", and ``LoadPublications()`` in
pgoutput.c.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from psycopg import errors, sql
from psycopg.errors import Diagnostic

from walex_django.pgoutput.lsn import Lsn

from .connection import Connection


def is_readable(connection: Connection, name: str, publications: Sequence[str]) -> bool:
    """
    Return whether a slot's next change can be decoded with these publications.

    It can't if the change was made before one of them was created.

    Args:
        connection: A connection to the slot's database.
        name: The name of a slot that is not in use.
        publications: The names of the publications.

    Raises:
        psycopg.Error: The slot can't be read for another reason.
    """
    warnings: list[str | None] = []

    def add(notice: Diagnostic) -> None:
        warnings.append(notice.sqlstate)

    # PostgreSQL 18 skips the change with a mere warning.
    connection.add_notice_handler(add)
    try:
        _peek(connection, name, publications, limit=1, messages=False)
    except errors.UndefinedObject:
        return False
    finally:
        connection.remove_notice_handler(add)
    return errors.ObjectNotInPrerequisiteState.sqlstate not in warnings


def has_changes(
    connection: Connection, name: str, publications: Sequence[str], *, until: Lsn
) -> bool:
    """
    Return whether a slot has changes or messages to deliver up to a position.

    Args:
        connection: A connection to the slot's database.
        name: The name of a slot that is not in use.
        publications: The names of the publications.
        until: The position.

    Raises:
        psycopg.Error: The slot can't be read.
    """
    found = _peek(
        connection, name, publications, limit=_PEEKED, messages=True, until=until
    )
    return len(found) >= _PEEKED or any(map(_is_content, found))


_PEEKED = 1000  # messages


def _peek(
    connection: Connection,
    name: str,
    publications: Sequence[str],
    *,
    limit: int,
    messages: bool,
    until: Lsn | None = None,
) -> list[bytes]:
    names = ",".join(sql.Identifier(each).as_string() for each in publications)
    rows = connection.execute(
        "SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s,"
        " %s::pg_lsn, %s, 'proto_version', '1', 'publication_names', %s, 'messages',"
        " %s)",
        [name, until and str(until), limit, names, str(messages).lower()],
    )
    return [data for (data,) in rows]


def _is_content(message: bytes) -> bool:
    """Return whether a message is a change, or a logical message of the application."""
    if message[:1] == b"M":
        return not message[_PREFIX_AT:].startswith(_OWN_PREFIX)
    return message[:1] not in _FRAMING


_PREFIX_AT = 10  # after the type, the flags and the LSN
_OWN_PREFIX = b"walex_django."
_FRAMING = {b"B", b"C", b"R", b"Y", b"O"}


def mark(connection: Connection) -> Lsn:
    """Write a message to the WAL that no receiver gets, and return its position."""
    ((position,),) = connection.execute(
        "SELECT (pg_logical_emit_message(false, 'walex_django.mark', '{}') - '0/0')"
        "::bigint"
    )
    deadline = time.monotonic() + _FLUSH_TIMEOUT
    while time.monotonic() < deadline:
        ((is_flushed,),) = connection.execute(
            "SELECT pg_current_wal_flush_lsn() - '0/0' >= %s", [position]
        )
        if is_flushed:
            break
        time.sleep(_FLUSH_POLL)
    return Lsn(position)


_FLUSH_TIMEOUT = 10.0  # seconds; usually at most 0.2
_FLUSH_POLL = 0.05  # seconds
