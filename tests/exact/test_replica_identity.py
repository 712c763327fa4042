"""Old rows have the columns of the table's replica identity."""

from __future__ import annotations

import psycopg
import pytest

from walex_django import Change, Event

from .atlas import Atlas
from .sameness import assert_survives, loaded
from .tables_models import Berth, Town

TOWN = """
    CREATE TABLE atlas.town (
        id int PRIMARY KEY, name text, code text NOT NULL, district int NOT NULL
    );
    CREATE UNIQUE INDEX by_code ON atlas.town (code);
    CREATE UNIQUE INDEX by_district ON atlas.town (district, code);
"""
BERTH = """
    CREATE TABLE atlas.berth (
        number int, guest text, "row" text, PRIMARY KEY ("row", number)
    )
"""
HILL = (1, "Hill", "h", 7)


@pytest.fixture
def town(atlas: Atlas) -> Atlas:
    """A table with one row, written before the listener starts."""
    atlas.execute(TOWN)
    atlas.execute("INSERT INTO atlas.town VALUES (%s, %s, %s, %s)", HILL)
    return atlas


def row(event: Event) -> tuple[object, ...]:
    """Return the new row."""
    assert event.new_record is not None
    return tuple(event.new_record.values())


def old_key(event: Event) -> dict[str, object] | None:
    """Return the old record of an event that has at most an old key."""
    old = event.old_record
    assert loaded(event.old_instance) == old
    assert event.changes is None
    return old


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        # The old record if id, code or district change.
        ("DEFAULT", {"id": {"id": 1}, "code": None, "district": None}),
        (
            "USING INDEX by_code",
            {"id": None, "code": {"code": "h"}, "district": None},
        ),
        (
            "USING INDEX by_district",
            {
                "id": None,
                "code": {"code": "h", "district": 7},
                "district": {"code": "h", "district": 7},
            },
        ),
    ],
)
def test_old_key_is_known_if_it_changed(
    town: Atlas, identity: str, expected: dict[str, dict[str, object] | None]
) -> None:
    town.execute(f"ALTER TABLE atlas.town REPLICA IDENTITY {identity}")
    town.watch()
    for column, value in (("id", "9"), ("code", "'x'"), ("district", "8")):
        town.execute(f"BEGIN; UPDATE atlas.town SET {column} = {value}")
        town.execute("UPDATE atlas.town SET name = NULL")
        back = "UPDATE atlas.town SET (id, name, code, district) = (%s, %s, %s, %s)"
        town.execute(back, HILL)
        town.execute("COMMIT")

    events = town.events()
    assert len(events) == 9
    for column, changed in zip(expected, events[::3], strict=True):
        assert old_key(changed) == expected[column]
        assert row(changed) != HILL
    for renamed in events[1::3]:
        assert old_key(renamed) is None
        assert row(renamed)[1] is None
    for event in events:
        assert loaded(event.instance) == event.new_record
        assert event.unchanged == ()
        assert_survives(event)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("DEFAULT", {"id": 1}),
        ("USING INDEX by_code", {"code": "h"}),
        ("USING INDEX by_district", {"code": "h", "district": 7}),
        ("FULL", {"id": 1, "name": None, "code": "h", "district": 7}),
    ],
)
def test_deleted_row_has_the_columns_of_its_replica_identity(
    town: Atlas, identity: str, expected: dict[str, object]
) -> None:
    town.execute(f"ALTER TABLE atlas.town REPLICA IDENTITY {identity}")
    town.execute("UPDATE atlas.town SET name = NULL")
    town.watch()
    town.execute("DELETE FROM atlas.town")

    (event,) = town.events()
    assert event.old_record == expected
    assert event.new_record is None
    assert event.changes is None
    assert event.instance is event.old_instance
    assert isinstance(event.instance, Town)
    assert event.instance.get_deferred_fields() == {
        *("id", "name", "code", "district")
    } - set(expected)
    assert_survives(event)


def test_whole_old_row_is_known_with_full_identity(town: Atlas) -> None:
    town.execute("ALTER TABLE atlas.town REPLICA IDENTITY FULL")
    town.watch()
    town.execute("UPDATE atlas.town SET id = 2, name = NULL")
    town.execute("UPDATE atlas.town SET name = NULL")
    town.execute("UPDATE atlas.town SET name = 'NULL'")

    moved, same, named = town.events()
    assert moved.changes == {"id": Change(1, 2), "name": Change("Hill", None)}
    assert same.changes == {}
    assert same.old_record == same.new_record
    assert named.changes == {"name": Change(None, "NULL")}
    assert isinstance(moved.old_instance, Town)
    assert (moved.old_instance.pk, moved.old_instance.name) == (1, "Hill")
    assert isinstance(named.old_instance, Town)
    assert loaded(named.old_instance) == named.old_record
    assert named.old_record == {"id": 2, "name": None, "code": "h", "district": 7}
    for event in (moved, same, named):
        assert_survives(event)


@pytest.mark.parametrize("without", ["NOTHING", "DEFAULT", "a key"])
def test_without_identity_the_server_refuses_updates_and_deletes(
    atlas: Atlas, without: str
) -> None:
    key = "PRIMARY KEY" if without == "NOTHING" else ""
    atlas.execute(f"CREATE TABLE atlas.loose (id int {key}, name text)")
    if without != "a key":
        atlas.execute(f"ALTER TABLE atlas.loose REPLICA IDENTITY {without}")
    atlas.watch()
    atlas.execute("INSERT INTO atlas.loose VALUES (1, 'a'), (2, NULL)")
    for statement in ("UPDATE atlas.loose SET name = 'b'", "DELETE FROM atlas.loose"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            atlas.execute(statement)
    atlas.execute("TRUNCATE atlas.loose")

    *inserts, truncate = atlas.events()
    assert [row(event) for event in inserts] == [(1, "a"), (2, None)]
    assert truncate.type == "truncate"


def test_whole_old_row_is_known_with_full_identity_and_no_key(atlas: Atlas) -> None:
    atlas.execute("""
        CREATE TABLE atlas.loose (id int, name text);
        ALTER TABLE atlas.loose REPLICA IDENTITY FULL;
        INSERT INTO atlas.loose VALUES (1, 'a'), (1, 'a'), (NULL, NULL)
    """)
    atlas.watch()
    atlas.execute("UPDATE atlas.loose SET name = 'b' WHERE id = 1")
    atlas.execute("DELETE FROM atlas.loose")

    one, two, *gone = atlas.events()
    assert one.changes == two.changes == {"name": Change("a", "b")}
    assert sorted(str(event.old_record) for event in gone) == sorted(
        str(old) for old in [{"id": 1, "name": "b"}] * 2 + [{"id": None, "name": None}]
    )
    assert one.instance is None
    for event in (one, two, *gone):
        assert_survives(event)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_composite_primary_key(atlas: Atlas, identity: str) -> None:
    atlas.execute(BERTH)
    atlas.execute(f"ALTER TABLE atlas.berth REPLICA IDENTITY {identity}")
    atlas.watch()
    Berth.objects.create(row="C", number=12, guest="Ada")
    Berth.objects.filter(pk=("C", 12)).update(guest=None)
    Berth.objects.filter(pk=("C", 12)).update(number=13)
    Berth.objects.get(pk=("C", 13)).delete()

    created, emptied, moved, gone = atlas.events()
    for event, pk in ((created, ("C", 12)), (emptied, ("C", 12)), (moved, ("C", 13))):
        assert isinstance(event.instance, Berth)
        assert event.instance.pk == pk
        assert event.instance.get_deferred_fields() == set()
    for event, pk in ((moved, ("C", 12)), (gone, ("C", 13))):
        old = event.old_instance
        assert isinstance(old, Berth)
        assert old.pk == pk
        deferred = {"guest"} if identity == "DEFAULT" else set()
        assert old.get_deferred_fields() == deferred
    full = identity == "FULL"
    assert emptied.changes == ({"guest": Change("Ada", None)} if full else None)
    assert moved.changes == ({"number": Change(12, 13)} if full else None)
    assert (emptied.old_record is None) is not full
    for event in (created, emptied, moved, gone):
        assert_survives(event)


def test_replica_identity_at_the_time_of_the_write_applies(
    any_atlas: Atlas,
) -> None:
    any_atlas.execute(TOWN)
    any_atlas.execute("INSERT INTO atlas.town VALUES (%s, %s, %s, %s)", HILL)
    any_atlas.watch()
    rename = "UPDATE atlas.town SET name = name || '.'"
    for identity in ("DEFAULT", "FULL", "USING INDEX by_code", "FULL"):
        any_atlas.execute(f"ALTER TABLE atlas.town REPLICA IDENTITY {identity}")
        any_atlas.execute(rename)
    any_atlas.execute(f"""
        BEGIN; {rename};
        ALTER TABLE atlas.town REPLICA IDENTITY DEFAULT; {rename};
        UPDATE atlas.town SET code = 'y';
        ALTER TABLE atlas.town REPLICA IDENTITY USING INDEX by_code;
        UPDATE atlas.town SET code = 'z';
        ALTER TABLE atlas.town REPLICA IDENTITY FULL; {rename}; COMMIT
    """)

    events = any_atlas.events()
    assert [event.changes and {*event.changes} for event in events] == [
        *(None, {"name"}, None, {"name"}),
        *({"name"}, None, None, None, {"name"}),
    ]
    assert events[7].old_record == {"code": "y"}
    assert [event.old_record for event in events[5:7]] == [None, None]
    assert events[8].changes == {"name": Change("Hill......", "Hill.......")}
    for event in events:
        assert_survives(event)


def test_dropping_the_index_leaves_no_replica_identity(any_atlas: Atlas) -> None:
    any_atlas.execute(TOWN)
    any_atlas.execute("INSERT INTO atlas.town VALUES (%s, %s, %s, %s)", HILL)
    any_atlas.execute("ALTER TABLE atlas.town REPLICA IDENTITY USING INDEX by_code")
    any_atlas.watch()
    any_atlas.execute("UPDATE atlas.town SET code = 'x'")
    any_atlas.execute("DROP INDEX atlas.by_code")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        any_atlas.execute("UPDATE atlas.town SET code = 'y'")
    any_atlas.execute("INSERT INTO atlas.town VALUES (2, NULL, 'i', 7)")

    changed, inserted = any_atlas.events()
    assert changed.old_record == {"code": "h"}
    assert row(inserted) == (2, None, "i", 7)
