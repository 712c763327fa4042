"""Values of built-in types arrive as psycopg gives them, from JSON and pickles too."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.examples import examples
from walex_django import Event, ExactText

from .hearing import Hearing, hearing
from .literals import JSON_TEXTS, LITERALS, XML, arrays, quoted
from .sameness import assert_same, assert_survives

# No other app has tables here: nothing else needs to be emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

TABLES = {type: f"typed.of_{place}" for place, type in enumerate([*LITERALS, "xml"])}


@pytest.fixture(scope="module")
def heard(database: None) -> Iterator[Hearing]:
    """A table for each type: of values, and of arrays of them."""
    tables = "".join(
        f"CREATE TABLE {table}"
        f' (id serial PRIMARY KEY, value {type}, "values" {type}[]);'
        for type, table in TABLES.items()
    )
    with hearing(
        "TABLES IN SCHEMA typed",
        "typed.*",
        before=f"CREATE SCHEMA typed; {tables}",
        after="DROP SCHEMA typed CASCADE",
    ) as heard:
        yield heard


@pytest.mark.parametrize("type", LITERALS)
@settings(
    max_examples=examples(6),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_a_value_is_what_psycopg_loads(
    heard: Hearing, type: str, data: st.DataObject
) -> None:
    literals = LITERALS[type]
    rows = data.draw(
        st.lists(
            st.tuples(
                st.none() | literals,
                st.none() | arrays(literals, ";" if type == "box" else ","),
            ),
            min_size=1,
            max_size=6,
        )
    )
    assert_as_selected(heard, type, rows)


def assert_as_selected(
    heard: Hearing, type: str, rows: list[tuple[str | None, str | None]]
) -> None:
    values = sql.SQL(", ").join(
        sql.SQL("({}::{type}, {}::{type}[])").format(value, items, type=sql.SQL(type))
        for value, items in rows
    )
    statement = f'INSERT INTO {TABLES[type]} (value, "values") VALUES '
    events = heard.execute(statement + values.as_string())
    assert len(events) == len(rows)
    selected = heard.selected(TABLES[type], events)
    for event, row in zip(events, selected, strict=True):
        assert_same(event.new_record, row)
        assert_survives(event)


@settings(max_examples=examples(20), deadline=None)
@given(texts=st.lists(XML, min_size=1, max_size=5))
def test_xml_is_its_text(heard: Hearing, texts: list[str]) -> None:
    if not built_with_xml(heard):
        pytest.skip("the server was built without libxml and takes no value of xml")
    assert_as_selected(heard, "xml", [(text, None) for text in texts])


def built_with_xml(heard: Hearing) -> bool:
    try:
        heard.connection.execute("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


@pytest.mark.parametrize("type", ["json", "jsonb"])
def test_any_json_is_what_psycopg_loads(heard: Hearing, type: str) -> None:
    assert_as_selected(heard, type, [(text, None) for text in JSON_TEXTS])


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("date", "10000-01-01"),
        ("time", "24:00:00"),
        ("timetz", "24:00:00+00"),
        ("timestamp", "-infinity"),
        ("timestamptz", "294276-12-31 23:59:59.999999+00"),
        ("interval", "178000000 years"),
        ("jsonb", "1" + "0" * 5000),
        ("daterange", "[2020-01-01,infinity)"),
        ("tstzmultirange", '{["2020-01-01 00:00:00+00",infinity)}'),
    ],
)
def test_what_python_cannot_hold_is_its_text(
    heard: Hearing, type: str, text: str
) -> None:
    items = "{" + quoted(text) + "}"
    (event,) = heard.execute(
        f'INSERT INTO {TABLES[type]} (value, "values") VALUES (%s, %s)', [text, items]
    )
    record = event.new_record
    assert record is not None
    assert_same(record["value"], ExactText(text))
    assert isinstance(record["values"], ExactText)
    assert heard.connection.execute(
        f'SELECT "values" = %s FROM {TABLES[type]} WHERE id = %s'.encode(),
        [record["values"], record["id"]],
    ).fetchone() == (True,)
    assert_survives(event)


@pytest.mark.parametrize("depth", [500, 5000])
@pytest.mark.parametrize("type", ["json", "jsonb"])
def test_deep_json_is_a_value_if_python_goes_so_deep(
    heard: Hearing, type: str, depth: int
) -> None:
    text = "[" * depth + "]" * depth
    table = TABLES[type]
    (event,) = heard.execute(f"INSERT INTO {table} (value) VALUES (%s)", [text])
    record = event.new_record
    assert record is not None
    (selected,) = heard.selected(table, [event])
    assert builtins.type(record["value"]) is builtins.type(selected["value"])
    shown = record["value"]
    assert (shown if isinstance(shown, str) else json.dumps(shown)) == text
    again = Event.from_dict(json.loads(json.dumps(event.as_dict()))).new_record
    assert again == record
