"""Which tables publications cover, without locks on the tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import LiteralString, NamedTuple

from . import catalog
from .connection import Connection
from .publications import TableName


class Coverage(NamedTuple):
    """
    Whether publications cover a table.

    Attributes:
        oid: The table's OID, which a table that is dropped and recreated does not keep.
        covered: Whether they send all changes of the table: see `publications.covered`.
    """

    oid: int
    covered: bool


def find(
    connection: Connection, names: Sequence[str], tables: Collection[TableName]
) -> dict[TableName, Coverage]:
    """
    Return whether publications cover each of these tables, if it exists.

    Unlike the view ``pg_publication_tables``, this does not wait for a table that is
    locked.

    Args:
        connection: A connection to the database.
        names: The names of the publications.
        tables: The tables.
    """
    schemas = [table.schema for table in tables]
    rows = connection.execute(
        _COVERAGE, [list(names), schemas, [table.name for table in tables]]
    )
    return {TableName(*row[:2]): Coverage(*row[2:]) for row in rows}


_SELECT_COVERAGE: LiteralString = """
SELECT namespace.nspname, class.relname, class.oid,
    class.oid IN (SELECT oid FROM covered)
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE (namespace.nspname, class.relname) IN (
    SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_COVERAGE: LiteralString = catalog.COVERED + _SELECT_COVERAGE
