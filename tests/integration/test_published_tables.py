"""Which tables publications send, found in catalogs that no table's lock guards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from walex_django.conf.stream import StreamConfig
from walex_django.replication import identities, publications
from walex_django.replication.identities import Identity
from walex_django.replication.publications import TableName

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

_TABLES = """
CREATE SCHEMA park; CREATE SCHEMA annex;
CREATE TABLE park.plain (id int PRIMARY KEY, a int, b int);
CREATE UNLOGGED TABLE park.unlogged (id int PRIMARY KEY);
CREATE TABLE park.parent (id int PRIMARY KEY);
CREATE TABLE park.child () INHERITS (park.parent);
CREATE VIEW park.view AS SELECT 1 AS one;
CREATE SEQUENCE park.numbers;
CREATE TABLE park.computed (
    id int PRIMARY KEY, dropped int, c int GENERATED ALWAYS AS (id + 1) STORED);
ALTER TABLE park.computed DROP COLUMN dropped;
CREATE TABLE park.root (id int, a int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE park.leaf PARTITION OF park.root FOR VALUES FROM (0) TO (10);
CREATE TABLE annex.leaf PARTITION OF park.root FOR VALUES FROM (10) TO (20);
CREATE UNLOGGED TABLE park.unlogged_leaf
    PARTITION OF park.root FOR VALUES FROM (20) TO (30);
CREATE TABLE annex.middle
    PARTITION OF park.root FOR VALUES FROM (30) TO (60) PARTITION BY RANGE (id);
CREATE TABLE annex.deep PARTITION OF annex.middle FOR VALUES FROM (30) TO (40);
CREATE TABLE park.deep PARTITION OF annex.middle FOR VALUES FROM (40) TO (50);
CREATE TABLE park.empty (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE annex.loose (id int PRIMARY KEY);
"""

_CONTENTS = {
    "nothing": "",
    "all_tables": "FOR ALL TABLES",
    "plain": "FOR TABLE park.plain",
    "columns": "FOR TABLE park.plain (id, b), park.computed",
    "filtered": "FOR TABLE park.plain WHERE (id > 1)",
    "inherited": "FOR TABLE park.parent",
    "only": "FOR TABLE ONLY park.parent",
    "root": "FOR TABLE park.root",
    "root_columns": "FOR TABLE park.root (id)",
    "middle": "FOR TABLE annex.middle, park.leaf",
    "leaves": "FOR TABLE park.leaf, annex.leaf, annex.deep, park.deep",
    "root_and_leaf": "FOR TABLE park.root, annex.deep, park.leaf",
    "empty": "FOR TABLE park.empty",
    "schema": "FOR TABLES IN SCHEMA park",
    "annex": "FOR TABLES IN SCHEMA annex",
    "schemas": "FOR TABLES IN SCHEMA annex, park",
    "mixed": "FOR TABLES IN SCHEMA annex, TABLE park.root",
    "mixed_leaf": "FOR TABLES IN SCHEMA park, TABLE annex.deep",
}

_CREATE = {
    f"{name}_{via}": (
        f"CREATE PUBLICATION {name}_{via} {contents}"
        f" WITH (publish_via_partition_root = {via == 'root'})"
    )
    for name, contents in _CONTENTS.items()
    for via in ("root", "leaf")
    # A list of a root's columns needs the root.
    if (name, via) != ("root_columns", "leaf")
}
_GENERATED = (
    "CREATE PUBLICATION generated FOR TABLE park.computed, park.plain"
    " WITH (publish_generated_columns = stored)"
)
_NAMES = [*_CREATE, "generated"]


@pytest.fixture(autouse=True)
def _zoo_of_publications(sql: psycopg.Connection[Any]) -> Iterator[None]:
    version = sql.info.server_version
    try:
        sql.execute(_TABLES)
        if version >= 180000:
            sql.execute("ALTER TABLE park.computed ADD v int GENERATED ALWAYS AS (id)")
            sql.execute(_GENERATED)
        for statement in _CREATE.values():
            sql.execute(statement.encode())
        yield
    finally:
        for name in _NAMES:
            sql.execute(f"DROP PUBLICATION IF EXISTS {name}".encode())
        sql.execute("DROP SCHEMA IF EXISTS park, annex CASCADE")


def compare(sql: psycopg.Connection[Any]) -> int:
    """Compare with PostgreSQL's own view; return how many rows it has."""
    rows = sql.execute(
        "SELECT pubname, schemaname, tablename, attnames::text[]"
        " FROM pg_publication_tables WHERE pubname = ANY(%s) ORDER BY 1, 2, 3",
        [_NAMES],
    ).fetchall()
    found = publications.published(sql, _NAMES)
    assert sorted((each.publication, *each.table) for each in found) == [
        row[:3] for row in rows
    ]
    columns = sql.execute(identities._PUBLISHED, [_NAMES]).fetchall()
    assert [(*row[:3], row[3]) for row in columns] == rows
    for name in _NAMES:
        assert publications.tables(sql, [name]) == [
            TableName(*row[1:3]) for row in rows if row[0] == name
        ]
    return len(rows)


def test_tables_and_columns_are_those_of_the_view(sql: psycopg.Connection[Any]) -> None:
    assert compare(sql) > 100


def test_so_they_are_once_partitions_come_and_leave(
    sql: psycopg.Connection[Any],
) -> None:
    sql.execute("ALTER TABLE park.empty ATTACH PARTITION annex.loose DEFAULT")
    compare(sql)

    sql.execute("ALTER TABLE annex.middle DETACH PARTITION annex.deep")
    compare(sql)


def test_a_partition_half_detached_is_none(sql: psycopg.Connection[Any]) -> None:
    with psycopg.connect(sql.info.dsn, password=sql.info.password) as reader:
        reader.execute("SELECT FROM park.root")
        # It waits for the reader once the first half is committed.
        sql.execute("SET statement_timeout = '1s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            sql.execute("ALTER TABLE park.root DETACH PARTITION park.leaf CONCURRENTLY")
        sql.execute("RESET statement_timeout")

        compare(sql)


@pytest.mark.parametrize("lock", ["park.leaf", "annex.deep", "park.plain", "park.root"])
def test_no_lock_on_a_table_is_waited_for(
    lock: str, sql: psycopg.Connection[Any], config: StreamConfig
) -> None:
    with psycopg.connect(sql.info.dsn, password=sql.info.password) as locker:
        locker.execute(f"LOCK TABLE {lock} IN ACCESS EXCLUSIVE MODE".encode())
        sql.execute("SET lock_timeout = '100ms'")
        tables = publications.tables(sql, _NAMES)
        publications.published(sql, _NAMES)
        publications.covered(sql, _NAMES)
        publications.members(sql, _NAMES)
        publications.described(sql, _NAMES)
        found: list[Identity] = identities.find(sql, tables)
        identities.indexes(sql, tables)
        identities.unpublished(sql, _NAMES, found)


_ROOT = {
    *("park.root", "park.leaf", "annex.leaf", "park.unlogged_leaf"),
    *("annex.middle", "annex.deep", "park.deep"),
}


@pytest.mark.parametrize("via", ["root", "leaf"])
@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("nothing", set()),
        ("plain", {"park.plain"}),
        ("root", _ROOT),
        ("root_and_leaf", _ROOT),
        ("middle", {"annex.middle", "annex.deep", "park.deep", "park.leaf"}),
        # The unlogged leaf writes nothing to the WAL.
        ("leaves", _ROOT - {"park.unlogged_leaf"}),
        ("empty", {"park.empty"}),
        (
            "annex",
            {"annex.leaf", "annex.middle", "annex.deep", "park.deep", "annex.loose"},
        ),
        ("mixed", _ROOT | {"annex.loose"}),
    ],
)
def test_partitioned_table_is_covered_as_itself_or_by_all_its_leaves(
    name: str, covered: set[str], via: str, sql: psycopg.Connection[Any]
) -> None:
    found = publications.covered(sql, [f"{name}_{via}"])

    assert set(map(str, found)) == covered


def test_new_partition_of_an_unpublished_root_is_missed(
    sql: psycopg.Connection[Any],
) -> None:
    root = TableName("park", "root")
    assert root in publications.covered(sql, ["leaves_root"])

    sql.execute(
        "CREATE TABLE park.new PARTITION OF park.root FOR VALUES FROM (60) TO (70)"
    )

    assert root not in publications.covered(sql, ["leaves_root"])
    assert root in publications.covered(sql, ["root_root"])
