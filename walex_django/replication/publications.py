"""
Publications: which tables a server sends.

Source: PostgreSQL, "CREATE PUBLICATION" and "pg_publication_tables".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from psycopg import sql

from .connection import Connection
from .errors import PublicationMissing


class TableName(NamedTuple):
    """Schema and name as in the catalogue, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def existing(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return those of ``names`` that are publications."""
    rows = connection.execute(
        "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY(%s)",
        [list(names)],
    )
    return {name for (name,) in rows}


def require(connection: Connection, names: Sequence[str]) -> None:
    """
    Raise unless all of ``names`` are publications.

    Raises:
        PublicationMissing: one of them is not.
    """
    there = existing(connection, names)
    for name in names:
        if name not in there:
            raise PublicationMissing(
                f'The publication "{name}" does not exist.',
                hint="Run: python manage.py walex_setup",
            )


def tables(connection: Connection, names: Sequence[str]) -> list[TableName]:
    """Return the tables that these publications send, each once, sorted."""
    rows = connection.execute(
        "SELECT DISTINCT schemaname, tablename FROM pg_catalog.pg_publication_tables"
        " WHERE pubname = ANY(%s) ORDER BY 1, 2",
        [list(names)],
    )
    return [TableName(*row) for row in rows]


class PublishedTable(NamedTuple):
    """
    A table that a publication sends.

    Attributes:
        identity: what it tells of old rows: ``"key"``, ``"full"``, ``"nothing"``, or
            the name of an index.
    """

    table: TableName
    publication: str
    identity: str


def published(connection: Connection, names: Sequence[str]) -> list[PublishedTable]:
    """Return the tables that each of these publications sends, sorted."""
    rows = connection.execute(_PUBLISHED, [list(names)])
    return [PublishedTable(TableName(*row[:2]), *row[2:]) for row in rows]


_PUBLISHED = """
SELECT listed.schemaname, listed.tablename, listed.pubname, CASE
    WHEN class.relreplident = 'f' THEN 'full'
    WHEN class.relreplident = 'i' THEN coalesce((
        SELECT of_index.relname FROM pg_catalog.pg_index
        JOIN pg_catalog.pg_class AS of_index ON of_index.oid = indexrelid
        WHERE indrelid = class.oid AND indisreplident), 'nothing')
    WHEN class.relreplident = 'd' AND EXISTS (
        SELECT FROM pg_catalog.pg_index WHERE indrelid = class.oid AND indisprimary)
        THEN 'key'
    ELSE 'nothing' END
FROM pg_catalog.pg_publication_tables AS listed
JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = listed.schemaname
JOIN pg_catalog.pg_class AS class
    ON class.relnamespace = namespace.oid AND class.relname = listed.tablename
WHERE listed.pubname = ANY(%s)
ORDER BY 1, 2, 3
"""


def covered(connection: Connection, names: Sequence[str]) -> set[TableName]:
    """Return `tables`, and those of which they are partitions, or that are theirs."""
    rows = connection.execute(_COVERED, [list(names)])
    return {TableName(*row) for row in rows}


_COVERED = """
WITH published AS (
    SELECT class.oid
    FROM pg_catalog.pg_publication_tables AS listed
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = listed.schemaname
    JOIN pg_catalog.pg_class AS class
        ON class.relnamespace = namespace.oid AND class.relname = listed.tablename
    WHERE listed.pubname = ANY(%s)
), related AS (
    SELECT oid FROM published
    UNION SELECT tree.relid::oid
        FROM published CROSS JOIN pg_catalog.pg_partition_tree(published.oid) AS tree
    UNION SELECT ancestor.relid::oid
        FROM published
        CROSS JOIN pg_catalog.pg_partition_ancestors(published.oid) AS ancestor
)
SELECT namespace.nspname, class.relname
FROM related
JOIN pg_catalog.pg_class AS class ON class.oid = related.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
"""


def without_identity(
    connection: Connection, tables: Collection[TableName]
) -> list[TableName]:
    """Return those on which PostgreSQL refuses UPDATE and DELETE if published."""
    rows = connection.execute(
        """
        SELECT namespace.nspname, class.relname
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace
            ON namespace.oid = class.relnamespace
        WHERE (namespace.nspname, class.relname) IN (
            SELECT * FROM unnest(%s::text[], %s::text[]))
        AND (class.relreplident = 'n' OR class.relreplident = 'd' AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_index
            WHERE indrelid = class.oid AND indisprimary))
        ORDER BY 1, 2
        """,
        [[table.schema for table in tables], [table.name for table in tables]],
    )
    return [TableName(*row) for row in rows]


def full_identity_statement(table: TableName) -> sql.Composed:
    """Return the SQL that makes a table tell all of its old rows."""
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(
        sql.Identifier(*table)
    )


def create_statement(name: str, tables: Collection[TableName]) -> sql.Composed:
    """
    Return the SQL that creates a publication of these tables.

    Changes of partitions are published under the name of the root, which is the one
    that has a model.
    """
    return sql.SQL(
        "CREATE PUBLICATION {}{} WITH (publish_via_partition_root = true)"
    ).format(
        sql.Identifier(name),
        sql.SQL(" FOR TABLE {}").format(_listed(tables)) if tables else sql.SQL(""),
    )


def add_statement(name: str, tables: Collection[TableName]) -> sql.Composed:
    """Return the SQL that adds tables to a publication."""
    return sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(
        sql.Identifier(name), _listed(tables)
    )


def drop_statement(name: str) -> sql.Composed:
    """Return the SQL that drops a publication."""
    return sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name))


def _listed(tables: Collection[TableName]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
