"""TRUNCATE is one event for each subscribed table."""

from __future__ import annotations

import pytest

from tests.listening import Connect
from walex_django import Event
from walex_django.signals import post_db_truncate

from .atlas import Atlas
from .sameness import assert_survives
from .tables_models import Harbour, Place, Reading

TABLES = """
    CREATE TABLE atlas.place (id serial PRIMARY KEY, name text, size int);
    CREATE TABLE atlas.harbour (
        id serial PRIMARY KEY, name text, place int REFERENCES atlas.place
    );
    CREATE TABLE atlas.pier (id int, harbour int REFERENCES atlas.harbour);
    CREATE TABLE atlas.other (id int);
"""
ROOT = """
    CREATE TABLE atlas.reading (id int, area int, value text) PARTITION BY LIST (area);
    CREATE TABLE atlas.reading_one PARTITION OF atlas.reading FOR VALUES IN (1);
    CREATE TABLE atlas.reading_two PARTITION OF atlas.reading FOR VALUES IN (2)
        PARTITION BY RANGE (id);
    CREATE TABLE atlas.two_low PARTITION OF atlas.reading_two
        FOR VALUES FROM (0) TO (100);
"""


def truncated(events: list[Event]) -> list[tuple[str, bool, bool]]:
    """Assert that all events are TRUNCATE; return their tables and flags."""
    for event in events:
        assert event.type == "truncate"
        assert (event.new_record, event.old_record, event.changes) == (None,) * 3
        assert (event.instance, event.old_instance, event.unchanged) == (None, None, ())
        assert_survives(event)
    return sorted((e.name, e.cascade, e.restart_identity) for e in events)


@pytest.mark.parametrize("identity", ["RESTART IDENTITY", "CONTINUE IDENTITY", ""])
def test_truncate_has_an_event_for_each_table_with_its_flags(
    any_atlas: Atlas, identity: str
) -> None:
    any_atlas.execute(TABLES)
    any_atlas.watch()
    any_atlas.execute(f"TRUNCATE atlas.place, atlas.harbour, atlas.pier {identity}")
    any_atlas.execute(f"TRUNCATE atlas.place {identity} CASCADE")
    any_atlas.execute(f"TRUNCATE ONLY atlas.other {identity} RESTRICT")
    any_atlas.execute("TRUNCATE atlas.other, atlas.other")

    events = any_atlas.events()
    restart = identity == "RESTART IDENTITY"
    family = ["harbour", "pier", "place"]
    assert truncated(events[:3]) == [(name, False, restart) for name in family]
    assert truncated(events[3:6]) == [(name, True, restart) for name in family]
    assert truncated(events[6:]) == sorted(
        [("other", False, restart), ("other", False, False)]
    )
    for three in (events[:3], events[3:6]):
        assert len({(event.lsn, event.xid) for event in three}) == 1
        assert [event.ordinal for event in three] == [1, 2, 3]
    models = {event.name: event.model for event in events}
    assert models == {"place": Place, "harbour": Harbour, "pier": None, "other": None}


def test_truncate_that_cascades_to_unpublished_tables(atlas: Atlas) -> None:
    atlas.execute(TABLES)
    atlas.watch("FOR TABLE atlas.place, atlas.pier", "atlas.place", "atlas.pier")
    atlas.execute("TRUNCATE atlas.place CASCADE")

    assert truncated(atlas.events()) == [("pier", True, False), ("place", True, False)]


def test_unsubscribed_tables_are_omitted(atlas: Atlas) -> None:
    atlas.execute(TABLES)
    atlas.watch("FOR ALL TABLES", "exact.Harbour")
    atlas.execute("TRUNCATE atlas.other, atlas.place, atlas.harbour, atlas.pier")
    atlas.execute("TRUNCATE atlas.other, atlas.pier")

    (event,) = atlas.events()
    assert truncated([event]) == [("harbour", False, False)]
    assert event.model is Harbour


def test_truncate_among_rows_of_its_transaction(any_atlas: Atlas) -> None:
    any_atlas.execute(TABLES)
    any_atlas.watch()
    any_atlas.execute("""
        BEGIN;
        INSERT INTO atlas.place (name) VALUES ('a');
        TRUNCATE atlas.place, atlas.harbour, atlas.pier;
        INSERT INTO atlas.place (name) VALUES ('b');
        SAVEPOINT undone;
        TRUNCATE atlas.place CASCADE;
        ROLLBACK TO SAVEPOINT undone;
        TRUNCATE atlas.other;
        INSERT INTO atlas.place (name) VALUES ('c');
        COMMIT;
    """)

    events = any_atlas.events()
    assert [str(event.type) for event in events] == [
        *("insert", "truncate", "truncate", "truncate"),
        *("insert", "truncate", "insert"),
    ]
    assert [event.ordinal for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert len({event.id for event in events}) == 7
    assert len({event.lsn for event in events}) == 1
    assert events[5].name == "other"


def test_table_created_and_truncated_in_one_transaction(any_atlas: Atlas) -> None:
    """TRUNCATE creates a new file; rows in the old one are delivered as well."""
    any_atlas.watch("FOR ALL TABLES", "atlas.*")
    any_atlas.execute("""
        BEGIN;
        CREATE TABLE atlas.place (id int, name text, size int);
        INSERT INTO atlas.place VALUES (1, 'a', 2);
        TRUNCATE atlas.place;
        ALTER TABLE atlas.place DROP size;
        INSERT INTO atlas.place VALUES (2, 'b');
        TRUNCATE atlas.place;
        COMMIT
    """)

    events = any_atlas.events()
    assert [str(e.type) for e in events] == ["insert", "truncate"] * 2
    assert {event.model for event in events} == {Place}


@pytest.mark.parametrize("root", [True, False], ids=["root", "leaf"])
def test_truncate_of_partitions(atlas: Atlas, root: bool) -> None:
    atlas.execute(ROOT)
    atlas.watch("FOR TABLE atlas.reading", "exact.Reading", root=root)
    atlas.execute("TRUNCATE atlas.reading")
    whole = atlas.events()
    atlas.execute("TRUNCATE atlas.two_low")
    atlas.execute("TRUNCATE atlas.reading_two, atlas.reading_one CASCADE")
    parts = atlas.events()

    if root:
        assert truncated(whole) == [("reading", False, False)]
        # An event of the root would wrongly claim that all partitions are empty.
        assert parts == []
    else:
        assert truncated(whole) == [
            ("reading_one", False, False),
            ("two_low", False, False),
        ]
        assert truncated(parts[:1]) == [("two_low", False, False)]
        assert truncated(parts[1:]) == [
            ("reading_one", True, False),
            ("two_low", True, False),
        ]
    assert {event.model for event in (*whole, *parts)} == {Reading}


def test_truncate_of_child_tables_and_only_of_their_parent(atlas: Atlas) -> None:
    atlas.execute("""
        CREATE TABLE atlas.isle (id int, name text);
        CREATE TABLE atlas.coral () INHERITS (atlas.isle);
    """)
    atlas.watch()
    atlas.execute("TRUNCATE atlas.isle")
    atlas.execute("TRUNCATE ONLY atlas.isle")

    events = atlas.events()
    assert truncated(events[:2]) == [("coral", False, False), ("isle", False, False)]
    assert truncated(events[2:]) == [("isle", False, False)]
    assert {str(event.model and event.model._meta.label) for event in events} == {
        "exact.Isle"
    }


def test_receiver_of_a_model_gets_only_its_table(
    atlas: Atlas, connect: Connect
) -> None:
    received: list[Event] = []

    def receiver(event: Event, **kwargs: object) -> None:
        received.append(event)

    atlas.execute(TABLES)
    connect(post_db_truncate, receiver, sender=Harbour)
    atlas.watch()
    atlas.execute("TRUNCATE atlas.place CASCADE")

    assert len(atlas.events()) == 3
    assert [event.name for event in received] == ["harbour"]


def test_publication_without_truncate(atlas: Atlas) -> None:
    atlas.execute(TABLES)
    atlas.watch("FOR ALL TABLES WITH (publish = 'insert, delete')")
    atlas.execute("INSERT INTO atlas.place (name) VALUES ('a')")
    atlas.execute("UPDATE atlas.place SET name = 'b'")
    atlas.execute("TRUNCATE atlas.place CASCADE")

    assert [str(event.type) for event in atlas.events()] == ["insert"]
