"""Unchanged TOASTed values are not sent, unless the old row has them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from walex_django import UNCHANGED, Change, Event

from .atlas import Atlas
from .sameness import assert_survives
from .tables_models import Letter

# Incompressible, so it is stored out of line with any strategy.
LONG = "".join(hashlib.sha256(bytes([i])).hexdigest() for i in range(200))
NOTES = {"text": LONG, "null": None}
TAGS: list[Any] = [LONG, None, "NULL"]
SEAL = LONG.encode()
TOASTED = {"story", "notes", "tags", "seal"}

LETTER = """
    CREATE TABLE atlas.letter (
        id int PRIMARY KEY, code text NOT NULL UNIQUE, story text, notes jsonb,
        tags text[], seal bytea
    );
    CREATE UNIQUE INDEX by_code ON atlas.letter (code)
"""


def write(atlas: Atlas) -> None:
    Letter.objects.create(id=1, code="a", story=LONG, notes=NOTES, tags=TAGS, seal=SEAL)


@pytest.fixture
def letter(atlas: Atlas) -> Atlas:
    """A table with a row of long values."""
    atlas.execute(LETTER)
    write(atlas)
    return atlas


def deferred(event: Event) -> set[str]:
    assert event.instance is not None
    return event.instance.get_deferred_fields()


@pytest.mark.parametrize("identity", ["DEFAULT", "USING INDEX by_code"])
@pytest.mark.parametrize("storage", ["EXTENDED", "EXTERNAL"])
def test_unsent_columns_are_listed_and_deferred(
    atlas: Atlas, identity: str, storage: str
) -> None:
    atlas.execute(LETTER)
    for column in TOASTED:
        atlas.execute(f"ALTER TABLE atlas.letter ALTER {column} SET STORAGE {storage}")
    atlas.execute(f"ALTER TABLE atlas.letter REPLICA IDENTITY {identity}")
    write(atlas)
    atlas.watch()
    atlas.execute("UPDATE atlas.letter SET code = 'b'")
    atlas.execute("UPDATE atlas.letter SET id = 2")
    atlas.execute("UPDATE atlas.letter SET story = story || '!', seal = NULL")
    atlas.execute("UPDATE atlas.letter SET notes = '{}'")

    coded, moved, written, noted = atlas.events()
    for event, absent in (
        (coded, TOASTED),
        (moved, TOASTED),
        (written, {"notes", "tags"}),
        (noted, {"story", "tags"}),
    ):
        record = event.new_record
        assert record is not None
        # In the order of the table.
        assert list(event.unchanged) == [name for name in record if name in absent]
        assert {n for n, value in record.items() if value is UNCHANGED} == absent
        assert deferred(event) == absent
        assert event.changes is None
        assert_survives(event)
    old_key = moved.old_record if identity == "DEFAULT" else coded.old_record
    assert old_key == ({"id": 1} if identity == "DEFAULT" else {"code": "a"})
    assert written.new_record is not None
    assert written.new_record["story"] == LONG + "!"
    assert written.new_record["seal"] is None
    assert isinstance(noted.instance, Letter)
    assert noted.instance.notes == {}
    assert noted.instance.seal is None


def test_deferred_value_is_loaded_on_access(letter: Atlas) -> None:
    letter.watch()
    letter.execute("UPDATE atlas.letter SET code = 'b'")

    (event,) = letter.events()
    again = Event.from_dict(json.loads(event.as_json()))
    for instance in (event.instance, again.instance):
        assert isinstance(instance, Letter)
        assert instance.story == LONG
        assert instance.notes == NOTES
        assert instance.tags == TAGS
        assert bytes(instance.seal or b"") == SEAL
        assert instance.get_deferred_fields() == set()
    # Loading values changes the instance, not the event.
    assert set(event.unchanged) == TOASTED


def test_full_identity_fills_in_unsent_values(letter: Atlas) -> None:
    letter.execute("ALTER TABLE atlas.letter REPLICA IDENTITY FULL")
    letter.watch()
    for change in (
        "code = 'b'",
        "id = 2",
        "story = NULL, tags = '{}'",
        "story = ''",
        "notes = notes || '{}'",
    ):
        letter.execute(f"UPDATE atlas.letter SET {change}")
    letter.execute("DELETE FROM atlas.letter")

    *updates, gone = letter.events()
    changes: list[dict[str, Any]] = [
        {"code": Change("a", "b")},
        {"id": Change(1, 2)},
        {"story": Change(LONG, None), "tags": Change(TAGS, [])},
        {"story": Change(None, "")},
        {},
    ]
    assert [event.changes for event in updates] == changes
    for event in updates:
        assert event.unchanged == ()
        assert deferred(event) == set()
        assert event.new_record is not None
        assert event.new_record["notes"] == NOTES
        assert event.new_record["seal"] == SEAL
        assert isinstance(event.old_instance, Letter)
        assert event.old_instance.get_deferred_fields() == set()
        assert_survives(event)
    assert isinstance(gone.instance, Letter)
    assert bytes(gone.instance.seal or b"") == SEAL
    assert_survives(gone)


def test_long_value_of_the_replica_identity_is_in_the_old_record(letter: Atlas) -> None:
    """The value is short enough for an index entry, at most 2704 bytes."""
    # It is part of the key however it is stored.
    letter.execute("ALTER TABLE atlas.letter ALTER code SET STORAGE EXTERNAL")
    letter.execute("ALTER TABLE atlas.letter REPLICA IDENTITY USING INDEX by_code")
    code = LONG[:2500]
    letter.execute("UPDATE atlas.letter SET code = %s", [code])
    letter.watch()
    letter.execute("UPDATE atlas.letter SET id = 2")
    letter.execute("UPDATE atlas.letter SET code = 'b'")
    letter.execute("UPDATE atlas.letter SET code = %s", [code])
    letter.execute("DELETE FROM atlas.letter")

    same, left, came, gone = letter.events()
    for event in (same, left, came, gone):
        assert_survives(event)
    assert same.new_record is not None
    assert same.new_record["code"] in (code, UNCHANGED)
    assert (same.new_record["code"] is UNCHANGED) is ("code" in same.unchanged)
    assert left.old_record == {"code": code}
    assert came.old_record == {"code": "b"}
    assert gone.old_record == {"code": code}


def test_short_values_are_always_sent(atlas: Atlas) -> None:
    atlas.execute(LETTER)
    atlas.execute("ALTER TABLE atlas.letter ALTER story SET STORAGE PLAIN")
    atlas.execute(
        "INSERT INTO atlas.letter VALUES (1, 'a', %s, '{}', '{}', '')", [LONG[:4000]]
    )
    atlas.watch()
    atlas.execute("UPDATE atlas.letter SET code = 'b'")

    (event,) = atlas.events()
    assert event.unchanged == ()
    assert event.new_record is not None
    assert event.new_record["story"] == LONG[:4000]


def test_value_rewritten_without_change_is_sent(letter: Atlas) -> None:
    letter.watch()
    letter.execute("UPDATE atlas.letter SET story = %s", [LONG])

    (event,) = letter.events()
    assert "story" not in event.unchanged
    assert event.new_record is not None
    assert event.new_record["story"] == LONG


def test_long_values_of_an_altered_table(any_atlas: Atlas) -> None:
    any_atlas.execute(LETTER)
    write(any_atlas)
    any_atlas.watch()
    any_atlas.execute("UPDATE atlas.letter SET code = 'b'")
    any_atlas.execute("ALTER TABLE atlas.letter DROP COLUMN tags")
    any_atlas.execute("ALTER TABLE atlas.letter RENAME story TO tale")
    any_atlas.execute("UPDATE atlas.letter SET code = 'c'")
    any_atlas.execute("ALTER TABLE atlas.letter REPLICA IDENTITY FULL")
    any_atlas.execute("UPDATE atlas.letter SET code = 'd'")

    first, second, third = any_atlas.events()
    assert first.unchanged == ("story", "notes", "tags", "seal")
    assert second.unchanged == ("tale", "notes", "seal")
    assert third.unchanged == ()
    assert third.changes == {"code": Change("c", "d")}
    assert third.new_record is not None
    assert third.new_record["tale"] == LONG
    for event in (first, second, third):
        assert_survives(event)
