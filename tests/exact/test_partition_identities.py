"""What is known of an old row depends on the partition that wrote it, at that time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from walex_django import Change, Event
from walex_django.filters import Filter

from .atlas import Atlas
from .sameness import assert_survives, loaded

NOTE = """
    CREATE TABLE atlas.note (id int NOT NULL, area int NOT NULL, code text, text text)
        PARTITION BY LIST (area);
    CREATE TABLE atlas.near PARTITION OF atlas.note (PRIMARY KEY (id))
        FOR VALUES IN (1);
    CREATE TABLE atlas.far PARTITION OF atlas.note (PRIMARY KEY (id))
        FOR VALUES IN (2);
"""
FULL = "ALTER TABLE atlas.{} REPLICA IDENTITY FULL"
DEFAULT = "ALTER TABLE atlas.{} REPLICA IDENTITY DEFAULT"


def full(any_atlas: Atlas, *tables: str) -> None:
    for table in tables:
        any_atlas.execute(FULL.format(table))


def known(event: Event) -> tuple[Any, Any]:
    """Return the old record and the changes, the same after a round trip by JSON."""
    assert_survives(event)
    if event.old_record is not None:
        # An unknown value is deferred on the instance, too.
        assert loaded(event.old_instance) in (None, event.old_record)
    return event.old_record, event.changes


def test_keys_written_before_a_partition_became_full_are_no_whole_rows(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute(NOTE)
    full(any_atlas, "note", "far")
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute("INSERT INTO atlas.note VALUES (1, 1, 'c', 'a')")
    any_atlas.execute("UPDATE atlas.note SET text = 'b'")
    any_atlas.execute("UPDATE atlas.note SET id = 2")
    any_atlas.execute("DELETE FROM atlas.note")
    full(any_atlas, "near")
    any_atlas.execute("INSERT INTO atlas.note VALUES (1, 1, NULL, NULL)")
    any_atlas.execute("UPDATE atlas.note SET text = 'b'")
    any_atlas.execute("DELETE FROM atlas.note")

    _, valued, moved, gone, _, changed, emptied = map(known, any_atlas.events())
    assert valued == (None, None)
    assert moved == ({"id": 1}, None)
    assert gone == ({"id": 2}, None)
    nothing = {"id": 1, "area": 1, "code": None, "text": None}
    assert changed == (nothing, {"text": Change(None, "b")})
    assert emptied == (nothing | {"text": "b"}, None)


def test_whole_rows_written_before_a_partition_lost_its_identity_stay_whole(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute(NOTE)
    full(any_atlas, "note", "near", "far")
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute("INSERT INTO atlas.note VALUES (1, 1, NULL, NULL)")
    any_atlas.execute("UPDATE atlas.note SET text = 'b'")
    any_atlas.execute(DEFAULT.format("near"))
    any_atlas.execute("UPDATE atlas.note SET text = 'c'")
    any_atlas.execute("DELETE FROM atlas.note")

    _, changed, unknown, gone = map(known, any_atlas.events())
    assert changed[1] == {"text": Change(None, "b")}
    assert unknown == (None, None)
    assert gone == ({"id": 1}, None)


def test_rows_of_full_partitions_are_whole_beside_partitions_with_keys(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute(NOTE)
    full(any_atlas, "note", "far")
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute("INSERT INTO atlas.note VALUES (1, 1), (2, 2)")
    any_atlas.execute("UPDATE atlas.note SET text = 'a' WHERE area = 2")
    any_atlas.execute("UPDATE atlas.note SET text = 'b' WHERE area = 2")
    any_atlas.execute("DELETE FROM atlas.note WHERE area = 2")
    any_atlas.execute("DELETE FROM atlas.note")

    *_, changed, gone, key = map(known, any_atlas.events())
    whole = {"id": 2, "area": 2, "code": None, "text": "a"}
    assert changed == (whole, {"text": Change("a", "b")})
    assert gone == (whole | {"text": "b"}, None)
    assert key == ({"id": 1}, None)


def test_a_roots_identity_that_changes_does_not_change_what_is_known(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute(NOTE)
    full(any_atlas, "far")
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute(
        "INSERT INTO atlas.note VALUES (1, 1, 'c', 'a'), (2, 2, 'c', 'a')"
    )
    steps = (DEFAULT, FULL, DEFAULT)
    for id, step in enumerate(steps, 3):
        # The server describes the partition again only if itself has changed.
        any_atlas.execute(step.format("note"))
        any_atlas.execute(f"UPDATE atlas.note SET id = {id} WHERE area = 1")
    full(any_atlas, "note")
    any_atlas.execute("UPDATE atlas.note SET text = 'b' WHERE area = 2")
    any_atlas.execute("DELETE FROM atlas.note WHERE area = 1")

    events = any_atlas.events()
    old = [known(event) for event in events[2:]]
    assert old == [
        *(({"id": id}, None) for id in (1, 3, 4)),
        (
            {"id": 2, "area": 2, "code": "c", "text": "a"},
            {"text": Change("a", "b")},
        ),
        ({"id": 5}, None),
    ]


def test_each_partition_tells_the_columns_of_its_own_index(any_atlas: Atlas) -> None:
    any_atlas.execute(NOTE)
    any_atlas.execute("""
        ALTER TABLE atlas.near ALTER code SET NOT NULL;
        CREATE UNIQUE INDEX by_code ON atlas.near (code);
        ALTER TABLE atlas.near REPLICA IDENTITY USING INDEX by_code;
    """)
    full(any_atlas, "note")
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute(
        "INSERT INTO atlas.note VALUES (1, 1, 'c', 'a'), (2, 2, 'd', 'a')"
    )
    any_atlas.execute("UPDATE atlas.note SET code = 'e' WHERE area = 1")
    any_atlas.execute(DEFAULT.format("note"))
    any_atlas.execute("DELETE FROM atlas.note")

    *_, changed, near, far = map(known, any_atlas.events())
    assert changed == ({"code": "c"}, None)
    assert near == ({"code": "e"}, None)
    assert far == ({"id": 2}, None)


def test_a_partition_with_its_columns_in_another_order_tells_its_key(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute(NOTE)
    any_atlas.execute("""
        CREATE TABLE atlas.odd (text text, gone int, code text, area int NOT NULL,
            id int PRIMARY KEY);
        ALTER TABLE atlas.odd DROP gone;
        ALTER TABLE atlas.note ATTACH PARTITION atlas.odd FOR VALUES IN (3);
    """)
    full(any_atlas, "note", "near", "far")
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute("INSERT INTO atlas.note VALUES (3, 3, 'c', 'a')")
    any_atlas.execute("DELETE FROM atlas.note")
    full(any_atlas, "odd")

    _, gone = map(known, any_atlas.events())
    assert gone == ({"id": 3}, None)


def test_tables_truncated_together_are_no_partitions_of_each_other(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute("""
        CREATE TABLE atlas.one (id int PRIMARY KEY, text text);
        CREATE TABLE atlas.two (id int PRIMARY KEY, text text);
    """)
    full(any_atlas, "one")
    any_atlas.watch("FOR TABLE atlas.one, atlas.two")
    any_atlas.execute("TRUNCATE atlas.one, atlas.two")
    any_atlas.execute("INSERT INTO atlas.one VALUES (1, NULL)")
    any_atlas.execute("UPDATE atlas.one SET text = 'a'")
    if any_atlas.backlog:  # a table that exists is known not to be partitioned
        any_atlas.execute("DROP TABLE atlas.one")

    *_, changed = map(known, any_atlas.events())
    assert changed == ({"id": 1, "text": None}, {"text": Change(None, "a")})


def test_a_filter_drops_no_row_whose_old_values_are_unknown(any_atlas: Atlas) -> None:
    any_atlas.execute(NOTE)
    full(any_atlas, "note", "far")
    any_atlas.config = replace(
        any_atlas.config, filters={"atlas.note": Filter(changed=("text",))}
    )
    any_atlas.watch("FOR TABLE atlas.note", root=True)
    any_atlas.execute("INSERT INTO atlas.note VALUES (1, 1), (2, 2)")
    any_atlas.execute("UPDATE atlas.note SET code = 'c'")  # drops that of "far" alone
    any_atlas.execute("UPDATE atlas.note SET id = id + 2")
    full(any_atlas, "near")
    any_atlas.execute("UPDATE atlas.note SET code = 'd'")

    *_, changed, moved = any_atlas.events()
    assert [e.new_record and e.new_record["area"] for e in (changed, moved)] == [1, 1]
    assert known(moved) == ({"id": 1}, None)
