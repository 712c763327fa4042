"""The tables of docs/values.md match what events contain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import errors
from psycopg.sql import SQL

from tests.listening import Listening
from walex_django import Event
from walex_django.conf.stream import StreamConfig

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = (Path(__file__).resolve().parents[2] / "docs/values.md").read_text()

NO_COLUMNS = {
    # Statistics and parse trees, which accept no input.
    *("gtsvector", "pg_node_tree", "pg_ndistinct", "pg_dependencies"),
    *("pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_mcv_list"),
}


class Row(NamedTuple):
    """A row of the page's tables."""

    type: str
    value: str
    record: str
    json: str


_CELL = r" `(.+?)` \|"
ROWS = [Row(*cells) for cells in re.findall(r"^\|" + _CELL * 4, PAGE, re.MULTILINE)]


@pytest.fixture
def rows(sql: psycopg.Connection[Any]) -> Iterator[list[Row]]:
    """The page's rows that the server supports, as columns of a table."""
    (types,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for statement in types.replace("EXTENSION", "EXTENSION IF NOT EXISTS").split(";"):
        sql.execute(statement.encode())
    rows = [row for row in ROWS if _takes(sql, row)]
    columns = ", ".join(f"c{place} {row.type}" for place, row in enumerate(rows))
    sql.execute(f"CREATE TABLE legacy.page ({columns})".encode())
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE legacy.page")
    yield rows
    sql.execute("DROP TABLE legacy.page")
    for kind, name in reversed(re.findall(r"CREATE (TYPE|DOMAIN) (\w+)", types)):
        sql.execute(f"DROP {kind} {name}".encode())


@pytest.fixture
def event(config: StreamConfig, rows: list[Row], sql: psycopg.Connection[Any]) -> Event:
    """The INSERT of that row."""
    values = SQL(", ").join(row.value for row in rows)
    with Listening(config) as listening:
        sql.execute(SQL("INSERT INTO legacy.page VALUES ({})").format(values))
        (event,) = listening.wait_for(1)
    return event


def test_documented_values_match(event: Event, rows: list[Row]) -> None:
    assert event.new_record
    record = event.new_record.values()
    dumped = json.loads(event.as_json())["new_record"].values()

    arrived = [
        Row(row.type, row.value, repr(value), json.dumps(text, ensure_ascii=False))
        for row, value, text in zip(rows, record, dumped, strict=True)
    ]
    assert arrived == rows


def test_documented_type_names_match(event: Event, rows: list[Row]) -> None:
    named = [re.sub(r"\(\d.*\)", "", row.type) for row in rows]

    assert list(event.source.columns.values()) == named


def test_each_built_in_type_is_documented(sql: psycopg.Connection[Any]) -> None:
    types = sql.execute(
        "SELECT format_type(oid, NULL) FROM pg_type WHERE typtype IN ('b', 'r', 'm')"
        " AND typcategory <> 'A' AND typnamespace = 'pg_catalog'::regnamespace"
    )
    there = {name for (name,) in types} - NO_COLUMNS

    assert there <= {re.sub(r"\(\d.*\)", "", row.type) for row in ROWS}


def _takes(connection: psycopg.Connection[Any], row: Row) -> bool:
    """Return whether the server supports the type; only XML may be missing."""
    try:
        connection.execute(SQL("SELECT {}::{}").format(row.value, SQL(row.type)))
    except errors.FeatureNotSupported:
        assert row.type == "xml"
        return False
    return True
