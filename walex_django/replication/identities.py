"""
Replica identities: which values of old rows tables write to the WAL.

Source: PostgreSQL, "ALTER TABLE", ``REPLICA IDENTITY``, and "Publication".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from . import catalog
from .connection import Connection
from .publications import TableName

IDENTITIES: Final = ("FULL", "DEFAULT", "NOTHING")
"""The replica identities other than the name of an index."""

_GENERATED_COLUMNS_VERSION = 180000  # the first that can publish generated columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """
    The replica identity of a table or of one of its partitions.

    Attributes:
        table: The table that was passed to `find`.
        part: The table itself, or one of its partitions.
        kind: ``"FULL"``, ``"DEFAULT"``, ``"NOTHING"``, or the name of an index.
        columns: The columns that the identity covers; empty if the server rejects
            UPDATE and DELETE.
        every: All columns of the table.
        has_rows: Whether it stores rows, that is, isn't partitioned itself.
    """

    table: TableName
    part: TableName
    kind: str
    columns: frozenset[str]
    every: frozenset[str]
    has_rows: bool

    @property
    def is_full(self) -> bool:
        """Whether the identity covers the whole row."""
        return self.kind == "FULL"


def find(connection: Connection, tables: Collection[TableName]) -> list[Identity]:
    """Return the replica identities of tables and of their partitions, sorted."""
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


_SELECT_PARTS: LiteralString = """
, part AS (
    SELECT namespace.nspname, class.relname, class.oid
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE (namespace.nspname, class.relname) IN (
        SELECT * FROM unnest(%s::text[], %s::text[]))
    UNION SELECT part.nspname, part.relname, partition.oid
    FROM part JOIN partition ON partition.parent = part.oid
)
"""
_PARTS: LiteralString = catalog.PARTITIONS + _SELECT_PARTS

# Only the key columns of an index belong to the identity, not its INCLUDE columns.
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
    Return the indexes of tables and their partitions that can be replica identities.

    An index of a partition can also be referred to by the name of the partitioned
    table's index.

    Returns:
        For each table, the names of its indexes by the names that refer to them.
    """
    found: dict[TableName, dict[str, str]] = {}
    for schema, table, name, alias in connection.execute(_INDEXES, _arrays(tables)):
        found.setdefault(TableName(schema, table), {})[alias] = name
    return found


_SELECT_INDEXES: LiteralString = """
SELECT DISTINCT namespace.nspname, class.relname, of_index.relname, alias.relname
FROM part
JOIN pg_catalog.pg_class AS class ON class.oid = part.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
JOIN pg_catalog.pg_index AS index ON index.indrelid = class.oid
JOIN pg_catalog.pg_class AS of_index ON of_index.oid = index.indexrelid
JOIN pg_catalog.pg_class AS alias ON alias.oid = of_index.oid OR alias.oid IN (
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
    Replica identity columns that a publication omits, so UPDATE and DELETE fail.

    Attributes:
        publication: The name of the publication.
        table: The table as it is published.
        columns: The omitted columns; empty if the column list itself is the problem.
        virtual: Whether virtual generated columns, which can't be published, are
            among them.
        listed: Whether the publication has a column list for the table.
    """

    publication: str
    table: TableName
    columns: tuple[str, ...]
    virtual: bool
    listed: bool


def unpublished(
    connection: Connection, names: Collection[str], identities: Iterable[Identity]
) -> list[Unpublished]:
    """Return the replica identity columns that publications omit."""
    relevant = [i for i in identities if i.has_rows and i.columns]
    found = []
    for row in connection.execute(_PUBLISHED, [list(names)]):
        publication, schema, name, columns, virtual, listed = row
        table = TableName(schema, name)
        parts = [identity for identity in relevant if identity.table == table]
        omitted = {column for part in parts for column in part.columns} - {*columns}
        # Before PostgreSQL 18, generated columns are omitted and nothing fails.
        is_harmless = (
            connection.info.server_version < _GENERATED_COLUMNS_VERSION and not listed
        )
        has_full = any(part.is_full for part in parts)
        if (omitted and not is_harmless) or (listed and has_full):
            found.append(
                Unpublished(
                    publication=publication,
                    table=table,
                    columns=tuple(sorted(omitted)),
                    virtual=not omitted.isdisjoint(virtual),
                    listed=listed,
                )
            )
    return found


# A partition that is published as itself may use the column list of its root. Its own
# columns count here as in pg_publication_tables, whose rule for generated columns
# differs between versions.
_SELECT_PUBLISHED: LiteralString = """
SELECT published.pubname, published.nspname, published.relname,
    ARRAY(
        SELECT attname::text FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = published.oid
        AND attribute.attnum > 0 AND NOT attribute.attisdropped
        AND CASE WHEN own.prattrs IS NOT NULL
            THEN attribute.attnum = ANY (own.prattrs::int2[])
            ELSE attribute.attgenerated = ''
                OR current_setting('server_version_num')::int < 160000
                OR attribute.attgenerated = 's'
                AND to_jsonb(publication.*) ->> 'pubgencols' = 's' END
        ORDER BY attribute.attnum),
    ARRAY(
        SELECT attname::text FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = published.oid AND attribute.attgenerated = 'v'),
    EXISTS (
        SELECT FROM pg_catalog.pg_publication_rel AS member
        WHERE member.prpubid = publication.oid AND member.prattrs IS NOT NULL
        AND (member.prrelid = published.oid OR member.prrelid IN (
            SELECT relid FROM pg_catalog.pg_partition_ancestors(published.oid))))
FROM published
JOIN publication ON publication.oid = published.publication
LEFT JOIN pg_catalog.pg_publication_rel AS own
    ON own.prpubid = publication.oid AND own.prrelid = published.oid
WHERE publication.pubupdate OR publication.pubdelete
ORDER BY 1, 2, 3
"""
_PUBLISHED: LiteralString = catalog.LISTED + _SELECT_PUBLISHED


def statement(table: TableName, identity: str) -> sql.Composed:
    """Return the SQL that sets the replica identity of a table."""
    clause = _CLAUSES.get(identity) or sql.SQL("USING INDEX {}").format(
        sql.Identifier(identity)
    )
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
        sql.Identifier(*table), clause
    )


_CLAUSES: dict[str, sql.Composable] = {
    "FULL": sql.SQL("FULL"),
    "DEFAULT": sql.SQL("DEFAULT"),
    "NOTHING": sql.SQL("NOTHING"),
}


def _arrays(tables: Collection[TableName]) -> list[list[str]]:
    return [[table.schema for table in tables], [table.name for table in tables]]
