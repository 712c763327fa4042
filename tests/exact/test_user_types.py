"""User-defined types: their values and names."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connection

from walex_django import Event, ExactText

from .field_models import Made
from .recorder import Recorder, recording
from .sameness import assert_same, assert_survives, loaded

# Flush only the tables of this app after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

CREATE_TYPES = r"""
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE EXTENSION IF NOT EXISTS cube;
CREATE SCHEMA made;
CREATE SCHEMA "Odd, ""quoted"" schema";
CREATE TYPE made.mood AS ENUM ('sad', 'so so', 'a,b', 'say "hi"', 'back\slash',
    'Übermut 🦓', '', 'NULL', '{}');
CREATE TYPE "Odd, ""quoted"" schema"."Größe, [] ""x"" of" AS ENUM ('S', 'XL');
CREATE TYPE public.here AS ENUM ('h');
CREATE DOMAIN made.positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN made.even AS made.positive CHECK (VALUE % 2 = 0);
CREATE DOMAIN made.price AS numeric(10, 2);
CREATE DOMAIN made.day AS date;
CREATE DOMAIN made.email AS citext;
CREATE DOMAIN made.labels AS text[];
CREATE DOMAIN made.more_labels AS made.labels;
CREATE DOMAIN made.feeling AS made.mood;
CREATE DOMAIN made.document AS jsonb;
CREATE DOMAIN made.bag AS hstore;
CREATE DOMAIN made.stay AS daterange;
CREATE DOMAIN made.corners AS box;
CREATE TYPE made.pair AS (x integer, "the y" text);
CREATE TYPE made.nest AS (pair made.pair, pairs made.pair[], mood made.mood);
CREATE DOMAIN made.checked_pair AS made.pair;
CREATE TYPE made.span AS RANGE (subtype = float8, multirange_type_name = made.spans);
CREATE TYPE made.text_span AS RANGE (subtype = text);
CREATE TYPE made.day_span AS RANGE (subtype = made.day);
"""
DROP_TYPES = """
DROP SCHEMA made CASCADE;
DROP SCHEMA "Odd, ""quoted"" schema" CASCADE;
DROP TYPE public.here;
"""
SIZE = '"Odd, ""quoted"" schema"."Größe, [] ""x"" of"'
LABELS = ["sad", "so so", "a,b", 'say "hi"', "back\\slash", "Übermut 🦓", "", "NULL"]

# Type, value in SQL, and expected value in a record.
CASES: list[tuple[str, str, Any]] = [
    ("made.mood", "'a,b'", "a,b"),
    ("made.mood", "'say \"hi\"'", 'say "hi"'),
    ("made.mood", "''", ""),
    ("made.mood[]", "enum_range(NULL::made.mood)", [*LABELS, "{}"]),
    (
        "made.mood[]",
        '\'{{sad,NULL},{"a,b","NULL"}}\'',
        [["sad", None], ["a,b", "NULL"]],
    ),
    (SIZE, "'XL'", "XL"),
    (f"{SIZE}[]", "'{XL,NULL}'", ["XL", None]),
    ("here", "'h'", "h"),
    ("here[]", "'{h}'", ["h"]),
    ("made.positive", "7", 7),
    ("made.positive[]", "'{1,NULL,3}'", [1, None, 3]),
    ("made.positive[]", "'[5:6]={1,2}'", [1, 2]),
    ("made.even", "8", 8),
    ("made.even[]", "'{{2},{4}}'", [[2], [4]]),
    ("made.price", "1.10", Decimal("1.10")),
    ("made.price[]", "'{1.10,NaN}'", [Decimal("1.10"), Decimal("NaN")]),
    ("made.day", "'infinity'", ExactText("infinity")),
    ("made.day[]", "'{infinity}'", ExactText("{infinity}")),
    ("made.email", "'Ada@X.org'", "Ada@X.org"),
    ("made.email[]", "'{Ada,\"b c\"}'", ["Ada", "b c"]),
    ("made.labels", "'{a,NULL,\"b,c\"}'", ["a", None, "b,c"]),
    ("made.labels[]", "ARRAY['{a,NULL}']::made.labels[]", ["{a,NULL}"]),
    ("made.more_labels", "'{a}'", ["a"]),
    ("made.feeling", "'so so'", "so so"),
    ("made.feeling[]", "'{so so,sad}'", ["so so", "sad"]),
    ("made.document", "'{\"a\": [1, null]}'", {"a": [1, None]}),
    ("made.document", f"'[1{'0' * 5000}]'", ExactText(f"[1{'0' * 5000}]")),
    ("made.document[]", "ARRAY['{\"a\": 1}', 'null']::jsonb[]", [{"a": 1}, None]),
    ("made.bag", "'a=>1, b=>NULL'", '"a"=>"1", "b"=>NULL'),
    ("made.bag[]", "ARRAY['a=>1'::hstore]", ['"a"=>"1"']),
    ("made.stay", "'empty'", psycopg.types.range.Range(empty=True)),
    ("made.corners", "'(1,1),(0,0)'", "(1,1),(0,0)"),
    # Arrays of box are delimited by semicolons.
    ("made.corners[]", "'{(1,1),(0,0);(2,2),(1,1)}'", ["(1,1),(0,0)", "(2,2),(1,1)"]),
    ("made.pair", "ROW(1, 'a \"b\", (c)')", r'(1,"a ""b"", (c)")'),
    ("made.pair", "ROW(NULL, '')", '(,"")'),
    ("made.pair[]", "ARRAY[ROW(1, 'a,b'), NULL]::made.pair[]", ['(1,"a,b")', None]),
    ("made.checked_pair", "ROW(1, 'a')", "(1,a)"),
    ("made.checked_pair[]", "ARRAY[ROW(1, 'a')]::made.checked_pair[]", ["(1,a)"]),
    (
        "made.nest",
        "ROW(ROW(1, 'a'), ARRAY[ROW(2, 'b,c')]::made.pair[], 'so so')",
        r'("(1,a)","{""(2,\\""b,c\\"")""}","so so")',
    ),
    ("made.span", "'[0.1,)'", "[0.1,)"),
    ("made.span[]", "'{\"[0.1,2)\"}'", ["[0.1,2)"]),
    ("made.spans", "'{[1,2],[3,4)}'", "{[1,2],[3,4)}"),
    ("made.spans[]", "ARRAY['{[1,2]}'::made.spans]", ["{[1,2]}"]),
    ("made.text_span", "'[a,\"b,c\"]'", '[a,"b,c"]'),
    ("made.day_span", "'[-infinity,2020-01-01)'", "[-infinity,2020-01-01)"),
    ("citext", "'Ada'", "Ada"),
    ("citext[]", "'{Ada,NULL}'", ["Ada", None]),
    ("ltree", "'a.b.c'", "a.b.c"),
    ("ltree[]", "'{a.b,c}'", ["a.b", "c"]),
    ("hstore", "'a=>1'", '"a"=>"1"'),
    ("hstore[]", "ARRAY['a=>1'::hstore]", ['"a"=>"1"']),
    ("cube", "'(1,2),(3,4)'", "(1, 2),(3, 4)"),
    ("cube[]", "ARRAY['(1,2)'::cube]", ["(1, 2)"]),
    ("pg_snapshot", "'10:20:10,14'", "10:20:10,14"),
]


@pytest.fixture(scope="module")
def recorder(database: None) -> Iterator[Recorder]:
    """A table with a column for each case, and a model's table."""
    columns = ", ".join(f"c{n} {type}" for n, (type, *_) in enumerate(CASES))
    tables = f"CREATE TABLE made.cases (id serial PRIMARY KEY, {columns});"
    with recording(
        "TABLES IN SCHEMA made",
        "made.*",
        before=f"{CREATE_TYPES}{tables}CREATE TABLE made.made ({made_columns()})",
        after=DROP_TYPES,
    ) as recorder:
        yield recorder


def made_columns() -> str:
    """Return the definitions of the columns of `Made`."""
    return ", ".join(
        f"{field.column} {field.db_type(connection)}"
        for field in Made._meta.local_concrete_fields
    )


@pytest.fixture(scope="module")
def event(recorder: Recorder) -> Event:
    """The INSERT of all cases."""
    values = ", ".join(f"{value}::{type}" for type, value, _ in CASES)
    (event,) = recorder.execute(f"INSERT INTO made.cases VALUES (DEFAULT, {values})")
    return event


@pytest.mark.parametrize("place", range(len(CASES)), ids=lambda n: CASES[n][:2])
def test_value_of_a_user_type(event: Event, place: int) -> None:
    assert event.new_record is not None
    assert_same(event.new_record[f"c{place}"], CASES[place][2])


def test_types_have_the_names_that_the_server_uses(
    recorder: Recorder, event: Event
) -> None:
    names = recorder.connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = 'made.cases'::regclass AND attnum > 0 ORDER BY attnum"
    ).fetchall()
    assert event.source.columns == dict(names)
    assert event.source.columns["c0"] == "made.mood"
    assert event.source.columns["c3"] == "made.mood[]"


def test_values_of_user_types_survive_json_and_pickle(event: Event) -> None:
    assert_survives(event)


def test_values_of_user_types_in_updates_and_changes(recorder: Recorder) -> None:
    recorder.connection.execute("ALTER TABLE made.cases REPLICA IDENTITY FULL")
    (before,) = recorder.execute("INSERT INTO made.cases DEFAULT VALUES")
    sets = ", ".join(
        f"c{n} = {value}::{type}" for n, (type, value, _) in enumerate(CASES)
    )
    (event,) = recorder.execute(f"UPDATE made.cases SET {sets} WHERE c0 IS NULL")
    recorder.connection.execute("ALTER TABLE made.cases REPLICA IDENTITY DEFAULT")
    assert event.changes is not None
    for n, (_, _, value) in enumerate(CASES):
        assert_same(tuple(event.changes[f"c{n}"]), (None, value))
    assert_same(event.old_record, before.new_record)
    assert_survives(event)


ROWS = {
    "mood": "so so",
    "moods": '{sad,"a,b",NULL}',
    "positive": 7,
    "positives": "{1,NULL}",
    "day": "2026-11-22",
    "labels": "{a,NULL}",
    "document": '{"a": [1.5, null]}',
    "pair": '(1,"a,b")',
    "pairs": '{"(1,a)"}',
    "span": "[0.5,1)",
    "spans": "{[0.5,1)}",
    "tree": "a.b",
    "trees": "{a.b,c}",
    "bag": "a=>1",
}


def test_instance_has_the_values_that_the_orm_loads(recorder: Recorder) -> None:
    (event,) = recorder.execute(
        f"INSERT INTO made.made (id, {', '.join(ROWS)})"
        f" VALUES (1, {', '.join(['%s'] * len(ROWS))})",
        list(ROWS.values()),
    )
    assert event.model is Made
    connection.close()
    assert_same(loaded(event.instance), loaded(Made.objects.get()))
    assert_survives(event)


def test_instance_has_exact_text_for_values_that_python_cannot_represent(
    recorder: Recorder,
) -> None:
    (event,) = recorder.execute(
        "INSERT INTO made.made (id, mood, day) VALUES (2, 'sad', '0044-03-15 BC')"
    )
    values = loaded(event.instance)
    assert values is not None
    assert_same(values["day"], ExactText("0044-03-15 BC"))
    assert_same(values["mood"], "sad")
    assert_survives(event)
