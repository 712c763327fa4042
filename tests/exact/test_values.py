"""Values of built-in types equal those of psycopg, also after JSON and pickle."""

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

from .literals import JSON_TEXTS, LITERALS, XML, arrays, quoted
from .recorder import Recorder, recording
from .sameness import assert_same, assert_survives

# Flush only the tables of this app after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

TABLES = {type: f"typed.of_{place}" for place, type in enumerate([*LITERALS, "xml"])}


@pytest.fixture(scope="module")
def recorder(database: None) -> Iterator[Recorder]:
    """A table for each type, with a column of values and one of arrays."""
    tables = "".join(
        f"CREATE TABLE {table}"
        f' (id serial PRIMARY KEY, value {type}, "values" {type}[]);'
        for type, table in TABLES.items()
    )
    with recording(
        "TABLES IN SCHEMA typed",
        "typed.*",
        before=f"CREATE SCHEMA typed; {tables}",
        after="DROP SCHEMA typed CASCADE",
    ) as recorder:
        yield recorder


@pytest.mark.parametrize("type", LITERALS)
@settings(
    max_examples=examples(6),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_value_equals_what_psycopg_loads(
    recorder: Recorder, type: str, data: st.DataObject
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
    assert_as_selected(recorder, type, rows)


def assert_as_selected(
    recorder: Recorder, type: str, rows: list[tuple[str | None, str | None]]
) -> None:
    values = sql.SQL(", ").join(
        sql.SQL("({}::{type}, {}::{type}[])").format(value, items, type=sql.SQL(type))
        for value, items in rows
    )
    statement = f'INSERT INTO {TABLES[type]} (value, "values") VALUES '
    events = recorder.execute(statement + values.as_string())
    assert len(events) == len(rows)
    selected = recorder.selected(TABLES[type], events)
    for event, row in zip(events, selected, strict=True):
        assert_same(event.new_record, row)
        assert_survives(event)


@settings(max_examples=examples(20), deadline=None)
@given(texts=st.lists(XML, min_size=1, max_size=5))
def test_xml_value_is_its_text(recorder: Recorder, texts: list[str]) -> None:
    if not built_with_xml(recorder):
        pytest.skip("the server was built without libxml and takes no value of xml")
    assert_as_selected(recorder, "xml", [(text, None) for text in texts])


def built_with_xml(recorder: Recorder) -> bool:
    try:
        recorder.connection.execute("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


@pytest.mark.parametrize("type", ["json", "jsonb"])
def test_json_value_equals_what_psycopg_loads(recorder: Recorder, type: str) -> None:
    assert_as_selected(recorder, type, [(text, None) for text in JSON_TEXTS])


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
def test_value_that_python_cannot_represent_is_its_text(
    recorder: Recorder, type: str, text: str
) -> None:
    items = "{" + quoted(text) + "}"
    (event,) = recorder.execute(
        f'INSERT INTO {TABLES[type]} (value, "values") VALUES (%s, %s)', [text, items]
    )
    record = event.new_record
    assert record is not None
    assert_same(record["value"], ExactText(text))
    assert isinstance(record["values"], ExactText)
    assert recorder.connection.execute(
        f'SELECT "values" = %s FROM {TABLES[type]} WHERE id = %s'.encode(),
        [record["values"], record["id"]],
    ).fetchone() == (True,)
    assert_survives(event)


@pytest.mark.parametrize("depth", [500, 5000])
@pytest.mark.parametrize("type", ["json", "jsonb"])
def test_deep_json_is_parsed_if_python_can_parse_it(
    recorder: Recorder, type: str, depth: int
) -> None:
    text = "[" * depth + "]" * depth
    table = TABLES[type]
    (event,) = recorder.execute(f"INSERT INTO {table} (value) VALUES (%s)", [text])
    record = event.new_record
    assert record is not None
    (selected,) = recorder.selected(table, [event])
    assert builtins.type(record["value"]) is builtins.type(selected["value"])
    shown = record["value"]
    assert (shown if isinstance(shown, str) else json.dumps(shown)) == text
    again = Event.from_dict(json.loads(json.dumps(event.as_dict()))).new_record
    assert again == record
