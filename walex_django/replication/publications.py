"""
Publications: which tables a server sends.

Source: PostgreSQL, "CREATE PUBLICATION" and "pg_publication_tables".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import LiteralString, NamedTuple

from psycopg import sql

from . import catalog
from .connection import Connection
from .errors import PublicationMissing


class TableName(NamedTuple):
    """The schema and name of a table, unquoted as in the system catalog."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def existing(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return those of ``names`` that exist as publications."""
    rows = connection.execute(
        "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY(%s)",
        [list(names)],
    )
    return {name for (name,) in rows}


def require(connection: Connection, names: Sequence[str]) -> None:
    """
    Raise an exception unless all publications exist.

    Raises:
        PublicationMissing: One of them does not exist.
    """
    found = existing(connection, names)
    for name in names:
        if name not in found:
            raise PublicationMissing(
                f'The publication "{name}" does not exist.',
                hint="Run: python manage.py walex_setup",
            )


def tables(connection: Connection, names: Sequence[str]) -> list[TableName]:
    """Return the distinct tables that the publications send, sorted."""
    rows = connection.execute(_TABLES, [list(names)])
    return [TableName(*row) for row in rows]


_SELECT_TABLES: LiteralString = (
    "SELECT DISTINCT nspname, relname FROM published ORDER BY 1, 2"
)
_TABLES: LiteralString = catalog.LISTED + _SELECT_TABLES


class PublishedTable(NamedTuple):
    """
    A table that a publication sends.

    Attributes:
        table: The table's name.
        publication: The publication's name.
        identity: The table's replica identity: ``"key"``, ``"full"``, ``"nothing"``,
            or the name of an index.
    """

    table: TableName
    publication: str
    identity: str


def published(connection: Connection, names: Sequence[str]) -> list[PublishedTable]:
    """Return the tables that each of the publications sends, sorted."""
    rows = connection.execute(_PUBLISHED, [list(names)])
    return [PublishedTable(TableName(*row[:2]), *row[2:]) for row in rows]


_SELECT_PUBLISHED: LiteralString = """
SELECT published.nspname, published.relname, published.pubname, CASE
    WHEN class.relreplident = 'f' THEN 'full'
    WHEN class.relreplident = 'i' THEN coalesce((
        SELECT of_index.relname FROM pg_catalog.pg_index
        JOIN pg_catalog.pg_class AS of_index ON of_index.oid = indexrelid
        WHERE indrelid = class.oid AND indisreplident), 'nothing')
    WHEN class.relreplident = 'd' AND EXISTS (
        SELECT FROM pg_catalog.pg_index WHERE indrelid = class.oid AND indisprimary)
        THEN 'key'
    ELSE 'nothing' END
FROM published JOIN pg_catalog.pg_class AS class ON class.oid = published.oid
ORDER BY 1, 2, 3
"""
_PUBLISHED: LiteralString = catalog.LISTED + _SELECT_PUBLISHED


def covered(connection: Connection, names: Sequence[str]) -> set[TableName]:
    """
    Return the tables all of whose changes the publications send.

    A partition is covered with its partitioned table. A partitioned table that isn't
    published is covered only while each of its partitions is.
    """
    rows = connection.execute(_COVERED, [list(names)])
    return {TableName(*row) for row in rows}


_SELECT_COVERED: LiteralString = """
SELECT namespace.nspname, class.relname
FROM covered
JOIN pg_catalog.pg_class AS class ON class.oid = covered.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
"""
_COVERED: LiteralString = catalog.COVERED + _SELECT_COVERED


class Publication(NamedTuple):
    """
    The contents of a publication.

    Attributes:
        name: The publication's name.
        lists_tables: Whether the publication lists its tables individually.
        unsent: The operations that it doesn't send, such as ``"truncate"``.
        sends_old_rows: Whether it sends UPDATE or DELETE.
    """

    name: str
    lists_tables: bool
    unsent: tuple[str, ...]
    sends_old_rows: bool


def described(connection: Connection, names: Sequence[str]) -> list[Publication]:
    """Describe those of ``names`` that exist as publications."""
    rows = connection.execute(_DESCRIBED, [list(names)])
    return [
        Publication(
            name,
            lists_tables,
            tuple(
                operation
                for operation, is_sent in zip(OPERATIONS, sent, strict=True)
                if not is_sent
            ),
            sent[1] or sent[2],
        )
        for name, lists_tables, *sent in rows
    ]


OPERATIONS = ("insert", "update", "delete", "truncate")

_DESCRIBED = """
SELECT pubname, NOT puballtables AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_publication_namespace AS of_schema
        WHERE of_schema.pnpubid = publication.oid),
    pubinsert, pubupdate, pubdelete, pubtruncate
FROM pg_catalog.pg_publication AS publication
WHERE pubname = ANY(%s)
ORDER BY 1
"""


def members(
    connection: Connection, names: Sequence[str]
) -> dict[str, dict[TableName, list[TableName]]]:
    """
    Return the tables that publications list individually.

    Returns:
        For each publication, its tables, each mapped to itself and its partitions.
    """
    found: dict[str, dict[TableName, list[TableName]]] = {name: {} for name in names}
    for name, *row in connection.execute(_MEMBERS, [list(names)]):
        table, part = TableName(*row[:2]), TableName(*row[2:])
        found[name].setdefault(table, []).append(part)
    return found


_SELECT_MEMBERS: LiteralString = """
, of_member AS (
    SELECT publication.pubname, prrelid AS root, prrelid AS part
    FROM pg_catalog.pg_publication_rel
    JOIN pg_catalog.pg_publication AS publication ON publication.oid = prpubid
    WHERE pubname = ANY(%s)
    UNION SELECT pubname, root, partition.oid
    FROM of_member JOIN partition ON partition.parent = part
)
SELECT pubname, at_root.nspname, root.relname, at_part.nspname, part.relname
FROM of_member
JOIN pg_catalog.pg_class AS root ON root.oid = of_member.root
JOIN pg_catalog.pg_namespace AS at_root ON at_root.oid = root.relnamespace
JOIN pg_catalog.pg_class AS part ON part.oid = of_member.part
JOIN pg_catalog.pg_namespace AS at_part ON at_part.oid = part.relnamespace
ORDER BY 1, 2, 3, 4, 5
"""
_MEMBERS: LiteralString = catalog.PARTITIONS + _SELECT_MEMBERS


def create_statement(name: str, tables: Collection[TableName]) -> sql.Composed:
    """
    Return the SQL that creates a publication for these tables.

    It publishes changes to partitions under the name of the root table, which is the
    one with a model.
    """
    return sql.SQL(
        "CREATE PUBLICATION {}{} WITH (publish_via_partition_root = true)"
    ).format(
        sql.Identifier(name),
        sql.SQL(" FOR TABLE {}").format(_comma_separated(tables))
        if tables
        else sql.SQL(""),
    )


def add_statement(name: str, tables: Collection[TableName]) -> sql.Composed:
    """Return the SQL that adds tables to a publication."""
    return sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(
        sql.Identifier(name), _comma_separated(tables)
    )


def remove_statement(name: str, tables: Collection[TableName]) -> sql.Composed:
    """Return the SQL that removes tables from a publication."""
    return sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(
        sql.Identifier(name), _comma_separated(tables)
    )


def send_all_statement(name: str) -> sql.Composed:
    """Return the SQL that makes a publication send all operations."""
    return sql.SQL("ALTER PUBLICATION {} SET (publish = {})").format(
        sql.Identifier(name), sql.Literal(", ".join(OPERATIONS))
    )


def send_generated_statement(name: str) -> sql.Composed:
    """Return the SQL that adds generated columns to a publication (PostgreSQL 18)."""
    return sql.SQL(
        "ALTER PUBLICATION {} SET (publish_generated_columns = stored)"
    ).format(sql.Identifier(name))


def drop_statement(name: str) -> sql.Composed:
    """Return the SQL that drops a publication."""
    return sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name))


def _comma_separated(tables: Collection[TableName]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
