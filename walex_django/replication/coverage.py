"""Which tables publications cover, without locks on the tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from .connection import Connection
from .publications import TableName


class Coverage(NamedTuple):
    """
    Whether publications cover a table.

    Attributes:
        oid: The table's OID, which a table that is dropped and recreated does not keep.
        covered: Whether they contain the table, a table that it is a partition of, or
            one of its partitions.
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
        _COVERAGE, [schemas, [table.name for table in tables], list(names)]
    )
    return {TableName(*row[:2]): Coverage(*row[2:]) for row in rows}


_COVERAGE = """
WITH RECURSIVE wanted AS (
    SELECT class.oid, namespace.nspname, class.relname
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE (namespace.nspname, class.relname) IN (
        SELECT * FROM unnest(%s::text[], %s::text[]))
), above AS (
    SELECT oid AS wanted, oid FROM wanted
    UNION SELECT above.wanted, inherits.inhparent
        FROM above
        JOIN pg_catalog.pg_class AS class
            ON class.oid = above.oid AND class.relispartition
        JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhrelid = class.oid
), below AS (
    SELECT oid AS wanted, oid FROM wanted
    UNION SELECT below.wanted, class.oid
        FROM below
        JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhparent = below.oid
        JOIN pg_catalog.pg_class AS class
            ON class.oid = inherits.inhrelid AND class.relispartition
), related AS (
    SELECT * FROM above UNION SELECT * FROM below
)
SELECT wanted.nspname, wanted.relname, wanted.oid, EXISTS (
    SELECT FROM pg_catalog.pg_publication AS publication
    WHERE publication.pubname = ANY(%s) AND (publication.puballtables OR EXISTS (
        SELECT FROM related
        JOIN pg_catalog.pg_class AS class ON class.oid = related.oid
        WHERE related.wanted = wanted.oid AND (
            EXISTS (
                SELECT FROM pg_catalog.pg_publication_rel
                WHERE prpubid = publication.oid AND prrelid = class.oid)
            OR EXISTS (
                SELECT FROM pg_catalog.pg_publication_namespace
                WHERE pnpubid = publication.oid AND pnnspid = class.relnamespace)))))
FROM wanted
"""
