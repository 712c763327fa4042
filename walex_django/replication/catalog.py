"""
SQL for partitions and published tables that waits for no table's lock.

``pg_publication_tables`` opens every table from PostgreSQL 16 on, and
``pg_partition_tree()`` locks every partition. Behind an ``ALTER TABLE`` that rewrites
one of them, both wait. The system catalogs contain the same facts, and reading them
takes no lock on the tables that they describe.

Each constant is the start of a query, which continues with a comma or with SELECT.

Source: PostgreSQL, ``GetPublicationRelations()`` and
``GetAllTablesPublicationRelations()`` and ``filter_partitions()`` in pg_publication.c,
``find_all_inheritors()`` in pg_inherits.c.
"""

from __future__ import annotations

from typing import Final, LiteralString

PARTITIONS: Final[LiteralString] = """
WITH RECURSIVE partition AS (
    SELECT inherits.inhrelid AS oid, inherits.inhparent AS parent,
        class.relkind <> 'p' AS is_leaf,
        class.relkind = 'r' AND class.relpersistence = 'p' AS is_publishable
    FROM pg_catalog.pg_inherits AS inherits
    JOIN pg_catalog.pg_class AS parent ON parent.oid = inherits.inhparent
    JOIN pg_catalog.pg_class AS class ON class.oid = inherits.inhrelid
    WHERE parent.relkind = 'p' AND NOT inherits.inhdetachpending
)
"""
"""The partitions of all tables, with their direct parents."""

# Objects that were created after initdb have OIDs from 16384 on.
_MEMBERS: LiteralString = """
, publication AS (
    SELECT * FROM pg_catalog.pg_publication WHERE pubname = ANY(%s)
), publishable AS (
    SELECT oid, relnamespace, relkind, relispartition FROM pg_catalog.pg_class
    WHERE relkind IN ('r', 'p') AND relpersistence = 'p' AND oid >= 16384
), member AS (
    SELECT publication.oid AS publication, publication.pubviaroot, prrelid AS oid
    FROM publication
    JOIN pg_catalog.pg_publication_rel ON prpubid = publication.oid
    WHERE NOT publication.puballtables
    UNION SELECT publication.oid, publication.pubviaroot, publishable.oid
    FROM publication
    JOIN pg_catalog.pg_publication_namespace ON pnpubid = publication.oid
    JOIN publishable ON publishable.relnamespace = pnnspid
    WHERE NOT publication.puballtables
)
"""
MEMBERS: Final[LiteralString] = PARTITIONS + _MEMBERS
"""
The tables that publications name or find in their schemas, without their partitions.

The only parameter is the array of publication names.
"""

_LISTED: LiteralString = """
, leaf AS (
    SELECT publication, oid FROM member WHERE NOT pubviaroot
    UNION SELECT leaf.publication, partition.oid
    FROM leaf JOIN partition ON partition.parent = leaf.oid
), ancestor AS (
    SELECT publication, oid, oid AS ancestor FROM member WHERE pubviaroot
    UNION SELECT ancestor.publication, ancestor.oid, partition.parent
    FROM ancestor JOIN partition ON partition.oid = ancestor.ancestor
), listed AS (
    SELECT leaf.publication, leaf.oid FROM leaf
    JOIN pg_catalog.pg_class AS class ON class.oid = leaf.oid AND class.relkind <> 'p'
    UNION SELECT publication, oid FROM member WHERE pubviaroot AND NOT EXISTS (
        SELECT FROM ancestor JOIN member AS root
            ON root.publication = ancestor.publication AND root.oid = ancestor.ancestor
        WHERE ancestor.publication = member.publication AND ancestor.oid = member.oid
        AND ancestor.ancestor <> ancestor.oid)
    UNION SELECT publication.oid, publishable.oid FROM publication
    JOIN publishable ON CASE WHEN publication.pubviaroot
        THEN NOT publishable.relispartition ELSE publishable.relkind = 'r' END
    WHERE publication.puballtables
), published AS (
    SELECT publication.oid AS publication, publication.pubname, class.oid,
        namespace.nspname, class.relname
    FROM listed
    JOIN publication ON publication.oid = listed.publication
    JOIN pg_catalog.pg_class AS class ON class.oid = listed.oid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
)
"""
LISTED: Final[LiteralString] = MEMBERS + _LISTED
"""
The tables that publications send, as the relation ``published``.

It has one row for each row of ``pg_publication_tables``: partitions appear under the
name that the publication sends them as.
"""

_COVERED: LiteralString = """
, sent AS (
    SELECT oid FROM member
    UNION SELECT oid FROM publishable
        WHERE EXISTS (SELECT FROM publication WHERE puballtables)
    UNION SELECT partition.oid FROM sent JOIN partition ON partition.parent = sent.oid
), part AS (
    SELECT parent AS root, oid, is_leaf, is_publishable FROM partition
    UNION SELECT part.root, partition.oid, partition.is_leaf, partition.is_publishable
    FROM part JOIN partition ON partition.parent = part.oid
), covered AS (
    SELECT oid FROM sent
    UNION SELECT part.root FROM part WHERE part.is_leaf AND part.is_publishable
    GROUP BY part.root
    HAVING bool_and(part.oid IN (SELECT oid FROM sent))
)
"""
COVERED: Final[LiteralString] = MEMBERS + _COVERED
"""
The tables all of whose changes publications send, as the relation ``covered``.

A partitioned table is covered if it is published itself, or as a part of a published
table, or if each of its leaf partitions is.
"""
