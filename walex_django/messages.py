"""Logical messages: what an application writes to the log beside its rows."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS, NotSupportedError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper

from .pgoutput.lsn import Lsn

OWN_PREFIX = "walex_django."
"""The beginning of the prefixes that walex_django keeps for its own messages."""


def emit(
    prefix: str, payload: Any, *, transactional: bool = True, using: str | None = None
) -> Lsn:
    """
    Write a logical message, for receivers of `post_db_message`.

    Args:
        prefix: what the stream's ``MESSAGES`` ask for.
        payload: bytes as they are, a string as UTF-8, anything else as JSON.
        transactional: part of the current transaction, and gone if that is rolled
            back; else heard of whatever becomes of the transaction: at once, before
            PostgreSQL 17 when the server next flushes its log (the WAL writer does
            so after ``wal_writer_delay``, or a commit).
        using: alias in ``DATABASES``, by default ``default``.

    Returns the position of the message: the receivers' ``message.lsn``.

    Raises:
        ValueError: the prefix begins with ``walex_django.``; or the payload has a
            number that JSON has not.
        TypeError: the payload is nothing of JSON.
        django.db.NotSupportedError: the database is not PostgreSQL.

    Source: PostgreSQL, "System Administration Functions", pg_logical_emit_message.
    """
    if prefix.startswith(OWN_PREFIX):
        raise ValueError(
            f"The prefix {prefix!r} is one of walex_django's own: choose another."
        )
    content = _encode(payload)
    connection = require_postgresql(using)
    with connection.cursor() as cursor:
        flush = ""
        if not transactional and connection.pg_version >= 170000:
            flush = ", flush => true"
        cursor.execute(
            f"SELECT pg_logical_emit_message(%s, %s, %s::bytea{flush})::text",
            [transactional, prefix, content],
        )
        (position,) = cursor.fetchone()
    return Lsn.parse(position)


def require_postgresql(using: str | None) -> DatabaseWrapper:
    """
    Return the connection of an alias.

    Raises:
        django.db.NotSupportedError: its database is not PostgreSQL.
    """
    alias = using or DEFAULT_DB_ALIAS
    connection: BaseDatabaseWrapper = connections[alias]
    if not isinstance(connection, DatabaseWrapper):
        raise NotSupportedError(
            f"The database {alias!r} is {connection.display_name}: only PostgreSQL"
            " has logical messages. Name another one with using=…."
        )
    return connection


def to_json(value: Any) -> str:
    """
    Return a value as JSON that every server encoding can hold.

    Raises:
        TypeError: it is nothing of JSON.
        ValueError: it has NaN or infinity in it, or itself.
    """
    return json.dumps(value, cls=DjangoJSONEncoder, allow_nan=False)


def _encode(payload: Any) -> bytes:
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    return (payload if isinstance(payload, str) else to_json(payload)).encode()
