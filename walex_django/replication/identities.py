"""
Replica identities: what tables tell of their old rows.

Source: PostgreSQL, "ALTER TABLE", ``REPLICA IDENTITY``, and "Publication".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from .connection import Connection
from .publications import TableName

IDENTITIES: Final = ("FULL", "DEFAULT", "NOTHING")
"""Those that are not the name of an index."""

_GENERATED_VERSION = 180000  # from which on generated columns are published, or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """
    What a table, or a partition of it, tells of its old rows.

    Attributes:
        table: as it was asked for.
        part: itself, or a partition of it.
        kind: ``"FULL"``, ``"DEFAULT"``, ``"NOTHING"``, or the name of an index.
        columns: those that it tells; none where the server refuses UPDATE and DELETE.
        every: all columns of the table.
        has_rows: it is no table that is partitioned itself.
    """

    table: TableName
    part: TableName
    kind: str
    columns: frozenset[str]
    every: frozenset[str]
    has_rows: bool

    @property
    def is_full(self) -> bool:
        """Whether it tells whole rows."""
        return self.kind == "FULL"


def find(connection: Connection, tables: Collection[TableName]) -> list[Identity]:
    """Return the identities of tables and of their partitions, sorted."""
    rows = connection.execute(_FIND, _arrays(tables))
    return [
        Identity(
            table=TableName(*row[:2]),
            part=TableName(*row[2:4]),
            kind=row[4],
            columns=frozenset(row[5]),
            every=frozenset(row[6]),
            has_rows=row[7],
        )
        for row in rows
    ]


_PARTS: LiteralString = """
WITH asked AS (
    SELECT class.oid, namespace.nspname, class.relname
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE (namespace.nspname, class.relname) IN (
        SELECT * FROM unnest(%s::text[], %s::text[]))
), part AS (
    SELECT nspname, relname, oid FROM asked
    UNION SELECT nspname, relname, tree.relid::oid
        FROM asked CROSS JOIN pg_catalog.pg_partition_tree(asked.oid) AS tree
)
"""

# The key of the index counts, without the columns that it includes.
_SELECT_IDENTITIES: LiteralString = """
SELECT part.nspname, part.relname, namespace.nspname, class.relname,
    CASE class.relreplident
        WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' WHEN 'd' THEN 'DEFAULT'
        ELSE coalesce(of_index.relname::text, 'NOTHING') END,
    ARRAY(
        SELECT attname::text FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = class.oid AND attnum > 0 AND NOT attisdropped
        AND (class.relreplident = 'f'
            OR attnum = ANY ((index.indkey::int2[])[0:index.indnkeyatts - 1]))),
    ARRAY(
        SELECT attname::text FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = class.oid AND attnum > 0 AND NOT attisdropped),
    class.relkind = 'r'
FROM part
JOIN pg_catalog.pg_class AS class ON class.oid = part.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_index AS index
    ON index.indrelid = class.oid AND index.indimmediate AND index.indisvalid
    AND CASE class.relreplident
        WHEN 'd' THEN index.indisprimary WHEN 'i' THEN index.indisreplident
        ELSE false END
LEFT JOIN pg_catalog.pg_class AS of_index ON of_index.oid = index.indexrelid
ORDER BY 1, 2, 3, 4
"""
_FIND = _PARTS + _SELECT_IDENTITIES


def indexes(
    connection: Connection, tables: Collection[TableName]
) -> dict[TableName, dict[str, str]]:
    """
    Return the indexes that can be identities, of tables and of their partitions.

    Those of a partition are named by the partitioned table's too.

    Returns, for each table, the names of its indexes by the names that mean them.
    """
    found: dict[TableName, dict[str, str]] = {}
    for schema, table, name, meant in connection.execute(_INDEXES, _arrays(tables)):
        found.setdefault(TableName(schema, table), {})[meant] = name
    return found


_SELECT_INDEXES: LiteralString = """
SELECT DISTINCT namespace.nspname, class.relname, of_index.relname, meant.relname
FROM part
JOIN pg_catalog.pg_class AS class ON class.oid = part.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
JOIN pg_catalog.pg_index AS index ON index.indrelid = class.oid
JOIN pg_catalog.pg_class AS of_index ON of_index.oid = index.indexrelid
JOIN pg_catalog.pg_class AS meant ON meant.oid = of_index.oid OR meant.oid IN (
    SELECT relid FROM pg_catalog.pg_partition_ancestors(of_index.oid))
WHERE index.indisunique AND index.indimmediate AND index.indisvalid
AND index.indpred IS NULL AND index.indexprs IS NULL
AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS attribute
    WHERE attribute.attrelid = class.oid AND NOT attribute.attnotnull
    AND attribute.attnum = ANY ((index.indkey::int2[])[0:index.indnkeyatts - 1]))
ORDER BY 1, 2, 4
"""
_INDEXES = _PARTS + _SELECT_INDEXES


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpublished:
    """
    Columns of an identity that a publication leaves out: UPDATE and DELETE fail.

    Attributes:
        publication: its name.
        table: as it is published.
        columns: those that are left out; none where a list of columns is the reason.
        virtual: they cannot be published.
        listed: the publication has a list of the table's columns.
    """

    publication: str
    table: TableName
    columns: tuple[str, ...]
    virtual: bool
    listed: bool


def unpublished(
    connection: Connection, names: Collection[str], identities: Iterable[Identity]
) -> list[Unpublished]:
    """Return where publications leave out what tables tell of their old rows."""
    told = [each for each in identities if each.has_rows and each.columns]
    found = []
    for row in connection.execute(_PUBLISHED, [list(names)]):
        publication, schema, name, columns, virtual, listed = row
        table = TableName(schema, name)
        parts = [each for each in told if each.table == table]
        lacking = {c for each in parts for c in each.columns} - {*columns}
        # Before 18 generated columns are left out, and nothing fails for it.
        may_lack = connection.info.server_version < _GENERATED_VERSION and not listed
        whole = any(each.is_full for each in parts)
        if (lacking and not may_lack) or (listed and whole):
            found.append(
                Unpublished(
                    publication=publication,
                    table=table,
                    columns=tuple(sorted(lacking)),
                    virtual=not lacking.isdisjoint(virtual),
                    listed=listed,
                )
            )
    return found


# Of a partition that is published as itself, the list may be its root's.
_PUBLISHED = """
SELECT listed.pubname, listed.schemaname, listed.tablename, listed.attnames::text[],
    ARRAY(
        SELECT attname::text FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = class.oid AND attribute.attgenerated = 'v'),
    EXISTS (
        SELECT FROM pg_catalog.pg_publication_rel AS member
        WHERE member.prpubid = publication.oid AND member.prattrs IS NOT NULL
        AND (member.prrelid = class.oid OR member.prrelid IN (
            SELECT relid FROM pg_catalog.pg_partition_ancestors(class.oid))))
FROM pg_catalog.pg_publication_tables AS listed
JOIN pg_catalog.pg_publication AS publication USING (pubname)
JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = listed.schemaname
JOIN pg_catalog.pg_class AS class
    ON class.relnamespace = namespace.oid AND class.relname = listed.tablename
WHERE listed.pubname = ANY(%s) AND (publication.pubupdate OR publication.pubdelete)
ORDER BY 1, 2, 3
"""


def statement(table: TableName, identity: str) -> sql.Composed:
    """Return the SQL that sets what a table tells of its old rows."""
    chosen = _CHOSEN.get(identity) or sql.SQL("USING INDEX {}").format(
        sql.Identifier(identity)
    )
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
        sql.Identifier(*table), chosen
    )


_CHOSEN: dict[str, sql.Composable] = {
    "FULL": sql.SQL("FULL"),
    "DEFAULT": sql.SQL("DEFAULT"),
    "NOTHING": sql.SQL("NOTHING"),
}


def _arrays(tables: Collection[TableName]) -> list[list[str]]:
    return [[table.schema for table in tables], [table.name for table in tables]]
