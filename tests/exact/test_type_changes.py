"""Types that are created or altered while a listener runs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from .recorder import Recorder, recording
from .sameness import assert_survives

# Flush only the tables of this app after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

CREATE_TYPES = """
CREATE SCHEMA turning;
CREATE TYPE turning.mood AS ENUM ('sad', '{}');
CREATE DOMAIN turning.positive AS integer CHECK (VALUE > 0);
CREATE TABLE turning.animal (
    id serial PRIMARY KEY, mood turning.mood, moods turning.mood[]);
"""


@pytest.fixture(scope="module")
def recorder(database: None) -> Iterator[Recorder]:
    """A schema with some types and a table that uses them."""
    with recording(
        "TABLES IN SCHEMA turning",
        "turning.*",
        before=CREATE_TYPES,
        after="DROP SCHEMA turning CASCADE",
    ) as recorder:
        yield recorder


def test_enum_label_added_while_streaming(recorder: Recorder) -> None:
    recorder.execute("INSERT INTO turning.animal (mood) VALUES ('sad')")
    recorder.connection.execute(
        "ALTER TYPE turning.mood ADD VALUE 'new, label' BEFORE 'sad'"
    )
    (event,) = recorder.execute(
        "INSERT INTO turning.animal (mood, moods)"
        " VALUES ('new, label', '{\"new, label\",sad}')"
    )
    assert event.new_record is not None
    assert event.new_record["mood"] == "new, label"
    assert event.new_record["moods"] == ["new, label", "sad"]
    assert_survives(event)


def test_enum_label_renamed_while_streaming(recorder: Recorder) -> None:
    recorder.connection.execute("ALTER TYPE turning.mood RENAME VALUE '{}' TO '{,}'")
    (event,) = recorder.execute("INSERT INTO turning.animal (mood) VALUES ('{,}')")
    recorder.connection.execute("ALTER TYPE turning.mood RENAME VALUE '{,}' TO '{}'")
    assert event.new_record is not None
    assert event.new_record["mood"] == "{,}"


def test_types_created_while_streaming(recorder: Recorder) -> None:
    recorder.connection.execute(
        """
        CREATE TYPE turning.late AS ENUM ('a b');
        CREATE DOMAIN turning.later AS turning.positive;
        CREATE TABLE turning.latest (
            id serial PRIMARY KEY, late turning.late, lates turning.late[],
            later turning.later)
        """
    )
    (event,) = recorder.execute(
        "INSERT INTO turning.latest VALUES (1, 'a b', '{a b,NULL}', 4)"
    )
    assert event.new_record == {
        "id": 1,
        "late": "a b",
        "lates": ["a b", None],
        "later": 4,
    }
    assert dict(event.source.columns) == {
        "id": "integer",
        "late": "turning.late",
        "lates": "turning.late[]",
        "later": "turning.later",
    }
    assert_survives(event)


def test_column_type_changed_while_streaming(recorder: Recorder) -> None:
    recorder.connection.execute(
        "CREATE TABLE turning.turning (id serial PRIMARY KEY, it text)"
    )
    found = []
    for name in ("text", "turning.positive", "numeric", "turning.one", "turning.one[]"):
        if name == "turning.one":
            recorder.connection.execute("CREATE TYPE turning.one AS ENUM ('1')")
        is_array = name.endswith("[]")
        using = f"ARRAY[it]::{name}" if is_array else f"it::text::{name}"
        recorder.connection.execute(
            f"ALTER TABLE turning.turning ALTER it TYPE {name} USING {using}".encode()
        )
        value = "{1}" if is_array else "1"
        (event,) = recorder.execute(
            "INSERT INTO turning.turning (it) VALUES (%s)", [value]
        )
        assert event.new_record is not None
        found.append((event.source.columns["it"], event.new_record["it"]))
    assert [(name, type(value), value) for name, value in found] == [
        ("text", str, "1"),
        ("turning.positive", int, 1),
        ("numeric", Decimal, Decimal(1)),
        ("turning.one", str, "1"),
        ("turning.one[]", list, ["1"]),
    ]
