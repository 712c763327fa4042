"""Tables that are renamed, recreated or replaced."""

from __future__ import annotations

from typing import Any

import pytest

from walex_django import Event

from .atlas import Atlas
from .sameness import assert_survives, loaded
from .tables_models import Harbour, Place


def names(events: list[Event]) -> list[tuple[str, str, Any]]:
    return [(e.source.schema, e.name, e.model and e.model.__name__) for e in events]


@pytest.mark.parametrize("within", ["between", "inside"])
def test_event_has_the_table_name_at_the_time_of_the_write(
    place: Atlas, within: str
) -> None:
    """The model stays that of the table under all of its names."""
    place.execute("CREATE SCHEMA atlas_old")
    place.watch("FOR ALL TABLES", "exact.Place")
    insert = "INSERT INTO {} VALUES (1, 'Rome', 5); DELETE FROM {}"
    steps = [
        insert.format(*["atlas.place"] * 2),
        "ALTER TABLE atlas.place RENAME TO city",
        insert.format(*["atlas.city"] * 2),
        "ALTER TABLE atlas.city SET SCHEMA atlas_old",
        insert.format(*["atlas_old.city"] * 2),
        "ALTER SCHEMA atlas_old RENAME TO atlas_new",
        insert.format(*["atlas_new.city"] * 2),
        "ALTER TABLE atlas_new.city SET SCHEMA atlas",
        "ALTER TABLE atlas.city RENAME TO place",
        insert.format(*["atlas.place"] * 2),
    ]
    events = []
    for step in [";".join(steps)] if within == "inside" else steps:
        place.execute(step)
        if not place.backlog:
            events += place.events()

    events = events or place.events()
    assert names(events)[::2] == names(events)[1::2]
    # Before PostgreSQL 16, the server does not report a schema's new name.
    renamed = "atlas_new" if place.version > 15 else "atlas_old"
    assert names(events)[::2] == [
        ("atlas", "place", "Place"),
        ("atlas", "city", "Place"),
        ("atlas_old", "city", "Place"),
        (renamed, "city", "Place"),
        ("atlas", "place", "Place"),
    ]
    assert {event.xid == events[0].xid for event in events[2:]} == {within == "inside"}
    for event in events:
        assert event.instance is not None
        assert event.instance.pk == 1
        assert_survives(event)


@pytest.mark.parametrize("within", ["between", "inside"])
def test_dropped_and_recreated_table(place: Atlas, within: str) -> None:
    place.watch()
    steps = [
        "INSERT INTO atlas.place VALUES (1, 'Rome', 5)",
        "DROP TABLE atlas.place",
        "CREATE TABLE atlas.place (size text, id bigint PRIMARY KEY)",
        "INSERT INTO atlas.place VALUES ('big', 2)",
        "DROP TABLE atlas.place",
        "CREATE TABLE atlas.place (id int, name text, size int)",
        "INSERT INTO atlas.place VALUES (3, 'Bonn', 7)",
    ]
    events = []
    for step in [";".join(steps)] if within == "inside" else steps:
        place.execute(step)
        if not place.backlog:
            events += place.events()

    events = events or place.events()
    assert names(events) == [("atlas", "place", "Place")] * 3
    assert [loaded(event.instance) for event in events] == [
        {"id": 1, "name": "Rome", "size": 5},
        {"id": 2, "size": "big"},
        {"id": 3, "name": "Bonn", "size": 7},
    ]
    for event in events:
        assert_survives(event)


@pytest.mark.parametrize(
    "change", ["ALTER TABLE atlas.place RENAME TO city", "DROP TABLE atlas.place"]
)
def test_event_of_a_renamed_or_dropped_table_keeps_its_model(
    atlas: Atlas, change: str
) -> None:
    atlas.execute("CREATE TABLE atlas.place (id int PRIMARY KEY, name text, size int)")
    atlas.watch("FOR ALL TABLES", "exact.Place")
    with atlas.paused():
        atlas.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
        atlas.execute(change)

    events = atlas.events()
    assert names(events) == [("atlas", "place", "Place")]
    assert loaded(events[0].instance) == {"id": 1, "name": "Rome", "size": 5}


SWAP = """
    ALTER TABLE atlas.place RENAME TO other;
    ALTER TABLE atlas.harbour RENAME TO place;
    ALTER TABLE atlas.other RENAME TO harbour;
"""


def test_tables_that_swap_their_names(place: Atlas) -> None:
    place.execute("CREATE TABLE atlas.harbour (id int PRIMARY KEY, name text)")
    place.watch()
    place.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    place.execute("INSERT INTO atlas.harbour VALUES (2, 'Oslo')")
    early = [] if place.backlog else place.events()
    place.execute(f"{SWAP} INSERT INTO atlas.harbour VALUES (3, 'Bonn', 7)")
    place.execute("INSERT INTO atlas.place VALUES (4, 'Kiel')")

    events = [*early, *place.events()]
    assert [event.name for event in events] == ["place", "harbour", "harbour", "place"]
    # As the ORM sees it now.
    assert [event.model for event in events[2:]] == [Harbour, Place]
    assert loaded(events[2].instance) == loaded(Harbour.objects.get(pk=3))
    assert loaded(events[3].instance) == {"id": 4, "name": "Kiel"}
    for event in events:
        assert_survives(event)


def test_new_table_that_replaces_an_old_one(place: Atlas) -> None:
    place.watch()
    place.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    place.execute("""
        CREATE TABLE atlas.place_new (name text, id int PRIMARY KEY, size int);
        INSERT INTO atlas.place_new SELECT name, id, size FROM atlas.place;
        ALTER TABLE atlas.place RENAME TO place_old;
        ALTER TABLE atlas.place_new RENAME TO place;
        INSERT INTO atlas.place VALUES ('Bonn', 2, 6)
    """)
    place.execute("INSERT INTO atlas.place VALUES ('Oslo', 3, 7)")
    place.execute("INSERT INTO atlas.place_old VALUES (4, 'Nice', 8)")

    events = place.events()
    assert [event.name for event in events] == [
        *("place", "place_new", "place", "place", "place_old")
    ]
    assert [event.model for event in events[2:4]] == [Place, Place]
    assert [loaded(event.instance) for event in events[2:4]] == [
        {"id": 2, "name": "Bonn", "size": 6},
        {"id": 3, "name": "Oslo", "size": 7},
    ]
    assert events[4].model is None
