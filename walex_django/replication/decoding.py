"""
Errors of the server while it decodes the WAL and sends its changes.

Source: PostgreSQL, "Logical Decoding Output Plugins" and "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re

import psycopg
from psycopg import errors
from psycopg.errors import Diagnostic

from walex_django.pgoutput.lsn import Lsn

from .connection import one_line, sql_error
from .errors import (
    ConnectionLost,
    DecodingFailed,
    ReplicationError,
    UnpublishedChange,
)

# Classes of SQLSTATEs: feature not supported, data exception, syntax error or access
# rule violation, program limit exceeded, internal error. The server gives the same
# error each time it decodes the change.
_LASTING = {"0A", "22", "42", "54", "XX"}

_UNDEFINED_OBJECT = "42704"

# Connection exception and operator intervention, such as the end of the walsender. They
# may occur while a change is being sent, but are not about it.
_UNRELATED = {"08", "57"}


def stream_error(error: psycopg.Error, slot: str) -> ReplicationError:
    """Return the exception for an error that ended the stream."""
    known = sql_error(error, slot=slot)
    kind = (error.sqlstate or "")[:2]
    if (
        type(known) not in {ReplicationError, ConnectionLost}
        or error.diag.severity_nonlocalized != "ERROR"
        or kind in _UNRELATED
    ):
        return known
    reason, context = one_line(error), error.diag.context
    # pgoutput looks up nothing but publications by name.
    if isinstance(error, errors.UndefinedObject):
        return unpublished_change(reason, context)
    position = change_position(context)
    if position is None and kind not in _LASTING:
        return known
    table = _table(error.diag)
    at = f" at {position}" if position else ""
    of = f" to the table {table}" if table else ""
    return DecodingFailed(
        f"The server cannot send the change{at}{of}: {reason}.",
        error=reason,
        sqlstate=error.sqlstate or "",
        position=position,
        table=table,
        passing=kind not in _LASTING,
    )


def unpublished_change(reason: str, context: str | None) -> UnpublishedChange:
    """
    Return the exception for a change made without its publication.

    Args:
        reason: The server's message, which names the publication.
        context: The context of the server's message, which names the position.
    """
    position = change_position(context)
    at = f" at {position}" if position else ""
    return UnpublishedChange(
        f"A change was made{at} while its publication was missing: {reason}.",
        error=reason,
        sqlstate=_UNDEFINED_OBJECT,
        position=position,
    )


def change_position(context: str | None) -> Lsn | None:
    """Return the position that an output plugin's context names, if any."""
    # The words around it may be translated.
    found = re.findall(r"\b[0-9A-F]+/[0-9A-F]+\b", context or "")
    return Lsn.parse(found[-1]) if found else None


def _table(diagnostic: Diagnostic) -> str:
    if diagnostic.table_name:
        return f"{diagnostic.schema_name}.{diagnostic.table_name}"
    named = re.search(r'(?:table|relation) "([^"]+)"', diagnostic.message_primary or "")
    return named[1] if named else ""
