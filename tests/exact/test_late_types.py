"""Types that come, change and go while a listener runs, or before it reads of them."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from .hearing import Hearing, hearing
from .sameness import assert_survives

# No other app has tables here: nothing else needs to be emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

MAKE = """
CREATE SCHEMA turning;
CREATE TYPE turning.mood AS ENUM ('sad', '{}');
CREATE DOMAIN turning.positive AS integer CHECK (VALUE > 0);
CREATE TABLE turning.animal (
    id serial PRIMARY KEY, mood turning.mood, moods turning.mood[]);
"""


@pytest.fixture(scope="module")
def heard(database: None) -> Iterator[Hearing]:
    """A schema with a few types, and a table of them."""
    with hearing(
        "TABLES IN SCHEMA turning",
        "turning.*",
        before=MAKE,
        after="DROP SCHEMA turning CASCADE",
    ) as heard:
        yield heard


def test_a_label_added_while_streaming_arrives(heard: Hearing) -> None:
    heard.execute("INSERT INTO turning.animal (mood) VALUES ('sad')")
    heard.connection.execute(
        "ALTER TYPE turning.mood ADD VALUE 'new, label' BEFORE 'sad'"
    )
    (event,) = heard.execute(
        "INSERT INTO turning.animal (mood, moods)"
        " VALUES ('new, label', '{\"new, label\",sad}')"
    )
    assert event.new_record is not None
    assert event.new_record["mood"] == "new, label"
    assert event.new_record["moods"] == ["new, label", "sad"]
    assert_survives(event)


def test_a_label_renamed_while_streaming_arrives(heard: Hearing) -> None:
    heard.connection.execute("ALTER TYPE turning.mood RENAME VALUE '{}' TO '{,}'")
    (event,) = heard.execute("INSERT INTO turning.animal (mood) VALUES ('{,}')")
    heard.connection.execute("ALTER TYPE turning.mood RENAME VALUE '{,}' TO '{}'")
    assert event.new_record is not None
    assert event.new_record["mood"] == "{,}"


def test_types_made_after_the_listener_started(heard: Hearing) -> None:
    heard.connection.execute(
        """
        CREATE TYPE turning.late AS ENUM ('a b');
        CREATE DOMAIN turning.later AS turning.positive;
        CREATE TABLE turning.latest (
            id serial PRIMARY KEY, late turning.late, lates turning.late[],
            later turning.later)
        """
    )
    (event,) = heard.execute(
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


def test_a_column_that_becomes_another_type_while_streaming(heard: Hearing) -> None:
    heard.connection.execute(
        "CREATE TABLE turning.turning (id serial PRIMARY KEY, it text)"
    )
    found = []
    for name in ("text", "turning.positive", "numeric", "turning.one", "turning.one[]"):
        if name == "turning.one":
            heard.connection.execute("CREATE TYPE turning.one AS ENUM ('1')")
        is_array = name.endswith("[]")
        using = f"ARRAY[it]::{name}" if is_array else f"it::text::{name}"
        heard.connection.execute(
            f"ALTER TABLE turning.turning ALTER it TYPE {name} USING {using}".encode()
        )
        value = "{1}" if is_array else "1"
        (event,) = heard.execute(
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
