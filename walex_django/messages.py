"""Logical messages: data that an application writes to the WAL in addition to rows."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS, NotSupportedError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper

from .pgoutput.lsn import Lsn

OWN_PREFIX = "walex_django."
"""The start of the prefixes that are reserved for walex_django's own messages."""


def emit(
    prefix: str, payload: Any, *, transactional: bool = True, using: str | None = None
) -> Lsn:
    """
    Write a logical message for the receivers of `post_db_message`.

    Args:
        prefix: The message's prefix, which the stream's ``MESSAGES`` must include.
        payload: The content. Bytes are written unchanged, a string as UTF-8, and any
            other value as JSON.
        transactional: Whether the message is part of the current transaction, and is
            discarded if that is rolled back. If not, it is delivered regardless of the
            transaction, and without waiting for its end. Before PostgreSQL 17, it is
            delivered when the server next flushes its WAL: at a commit, or by the WAL
            writer after ``wal_writer_delay``.
        using: The database's alias in ``DATABASES``; defaults to ``"default"``.

    Returns:
        The position of the message, which receivers get as ``message.lsn``.

    Raises:
        ValueError: If the prefix begins with ``walex_django.``, or the payload contains
            a number that JSON can't represent.
        TypeError: If the payload can't be serialized to JSON.
        django.db.NotSupportedError: If the database is not PostgreSQL.

    Source: PostgreSQL, "System Administration Functions", pg_logical_emit_message.
    """
    if prefix.startswith(OWN_PREFIX):
        raise ValueError(
            f"The prefix {prefix!r} is reserved for walex_django. Choose another one."
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
    Return the connection of an alias, which must be a PostgreSQL database.

    Args:
        using: The database's alias in ``DATABASES``; defaults to ``"default"``.

    Raises:
        django.db.NotSupportedError: If the database is not PostgreSQL.
    """
    alias = using or DEFAULT_DB_ALIAS
    connection: BaseDatabaseWrapper = connections[alias]
    if not isinstance(connection, DatabaseWrapper):
        raise NotSupportedError(
            f"The database {alias!r} is {connection.display_name}, but only PostgreSQL"
            " has logical messages. Pass another alias as using=…."
        )
    return connection


def to_json(value: Any) -> str:
    """
    Serialize a value to ASCII JSON, which every server encoding can store.

    Raises:
        TypeError: If the value can't be serialized.
        ValueError: If it contains NaN, infinity or itself.
    """
    return json.dumps(value, cls=DjangoJSONEncoder, allow_nan=False)


def _encode(payload: Any) -> bytes:
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    return (payload if isinstance(payload, str) else to_json(payload)).encode()
