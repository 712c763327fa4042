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
