"""Unlogged and foreign tables, views, row filters, column lists, generated columns."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError

from walex_django import Change, Event

from .atlas import Atlas
from .sameness import assert_survives, loaded
from .tables_models import Circle, Place

PLACE = "CREATE TABLE atlas.place (id int PRIMARY KEY, name text, size int)"
CIRCLE = """
    CREATE TABLE atlas.circle (
        id int PRIMARY KEY, radius int NOT NULL,
        area int GENERATED ALWAYS AS (radius * radius) {}
    )
"""

FOREIGN = """
    CREATE EXTENSION IF NOT EXISTS file_fdw SCHEMA atlas;
    CREATE SERVER atlas_nothing FOREIGN DATA WRAPPER file_fdw;
    CREATE FOREIGN TABLE atlas.harbour (id int, name text)
        SERVER atlas_nothing OPTIONS (filename '/dev/null');
"""


def ids(events: list[Event]) -> list[tuple[str, Any]]:
    for event in events:
        assert_survives(event)
    return [
        (str(event.type), (event.new_record or event.old_record or {}).get("id"))
        for event in events
    ]


@pytest.fixture
def no_warnings(caplog: pytest.LogCaptureFixture) -> Any:
    """Assert that the listener logs no warning."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert [
        record.getMessage() for record in records if record.levelno >= logging.WARNING
    ] == []


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize("kind", ["UNLOGGED", "TEMPORARY"])
def test_unlogged_and_temporary_tables_have_no_events(atlas: Atlas, kind: str) -> None:
    name = "atlas.fleeting" if kind == "UNLOGGED" else "fleeting"
    atlas.execute(f"CREATE {kind} TABLE {name} (id int PRIMARY KEY)")
    atlas.execute(PLACE)
    atlas.watch("FOR ALL TABLES", "*")
    atlas.execute(f"""
        BEGIN;
        INSERT INTO {name} SELECT generate_series(1, 100);
        UPDATE {name} SET id = -id;
        INSERT INTO atlas.place VALUES (1, 'Rome', 5);
        CREATE TEMPORARY TABLE place AS SELECT 2 AS id;
        DELETE FROM place; TRUNCATE {name}; DROP TABLE place;
        COMMIT
    """)

    (event,) = atlas.events()
    assert (event.model, event.ordinal) == (Place, 1)


@pytest.mark.usefixtures("no_warnings")
def test_table_has_events_only_while_it_is_logged(atlas: Atlas) -> None:
    atlas.execute(PLACE)
    atlas.execute("CREATE UNLOGGED TABLE atlas.harbour (id int PRIMARY KEY, name text)")
    atlas.watch("FOR ALL TABLES", "exact.Place", "atlas.*")
    atlas.execute("INSERT INTO atlas.harbour VALUES (1, 'Kiel')")
    atlas.execute("ALTER TABLE atlas.harbour SET LOGGED")
    atlas.execute("INSERT INTO atlas.harbour VALUES (2, 'Oslo')")
    atlas.execute("ALTER TABLE atlas.harbour SET UNLOGGED")
    atlas.execute("INSERT INTO atlas.harbour VALUES (3, 'Bonn')")

    assert ids(atlas.events()) == [("insert", 2)]


@pytest.mark.usefixtures("no_warnings")
def test_changes_through_views_are_events_of_their_tables(atlas: Atlas) -> None:
    atlas.execute(PLACE)
    atlas.execute("""
        CREATE VIEW atlas.big AS SELECT * FROM atlas.place WHERE size > 5;
        CREATE MATERIALIZED VIEW atlas.sum AS SELECT sum(size) FROM atlas.place;
        CREATE VIEW atlas.harbour AS SELECT id, name FROM atlas.place
    """)
    atlas.watch()
    atlas.execute("INSERT INTO atlas.big VALUES (1, 'Rome', 6)")
    atlas.execute("REFRESH MATERIALIZED VIEW atlas.sum")
    atlas.execute("UPDATE atlas.harbour SET name = 'Oslo'")
    atlas.execute("DELETE FROM atlas.big")

    events = atlas.events()
    assert ids(events) == [("insert", 1), ("update", 1), ("delete", 1)]
    # A view can have its own model, which events of the table do not use.
    assert {event.model for event in events} == {Place}


@pytest.mark.usefixtures("no_warnings")
def test_foreign_tables_are_ignored(atlas: Atlas) -> None:
    atlas.execute(PLACE)
    atlas.execute(FOREIGN)
    atlas.execute("""
        CREATE TABLE atlas.reading (id int, area int, value text)
            PARTITION BY LIST (area);
        CREATE TABLE atlas.reading_near PARTITION OF atlas.reading FOR VALUES IN (1);
        CREATE FOREIGN TABLE atlas.reading_far PARTITION OF atlas.reading
            FOR VALUES IN (2) SERVER atlas_nothing OPTIONS (filename '/dev/null')
    """)
    atlas.watch("FOR ALL TABLES", "exact.*", "atlas.*")
    atlas.execute("INSERT INTO atlas.place SELECT id, name FROM atlas.harbour")
    atlas.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 6)")
    atlas.execute("INSERT INTO atlas.reading VALUES (2, 1)")

    assert ids(atlas.events()) == [("insert", 1), ("insert", 2)]


@pytest.mark.parametrize(
    "harbour",
    [
        "CREATE VIEW atlas.harbour AS SELECT 1 AS id",
        "CREATE MATERIALIZED VIEW atlas.harbour AS SELECT 1 AS id",
        "CREATE UNLOGGED TABLE atlas.harbour (id int)",
        FOREIGN,
    ],
    ids=["view", "materialized view", "unlogged", "foreign"],
)
def test_subscription_to_an_unpublishable_relation_is_refused(
    atlas: Atlas, harbour: str
) -> None:
    atlas.execute(harbour)
    with pytest.raises(ImproperlyConfigured, match=r"exact\.Harbour"):
        atlas.watch("FOR ALL TABLES", "exact.Harbour")


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_update_across_a_row_filter_is_an_insert_or_a_delete(
    atlas: Atlas, identity: str
) -> None:
    atlas.execute(PLACE)
    atlas.execute(f"ALTER TABLE atlas.place REPLICA IDENTITY {identity}")
    column = "id" if identity == "DEFAULT" else "size"
    atlas.watch(f"FOR TABLE atlas.place WHERE ({column} > 10)", "exact.Place")
    for value in (1, 11, 12, 2, 3, 13):
        atlas.execute(
            "INSERT INTO atlas.place VALUES (1, 'Rome', 1)"
            if value == 1
            else f"UPDATE atlas.place SET {column} = {value}"
        )
    atlas.execute("DELETE FROM atlas.place")
    atlas.execute("TRUNCATE atlas.place")

    events = atlas.events()
    assert [str(event.type) for event in events] == [
        *("insert", "update", "delete", "insert", "delete", "truncate")
    ]
    came, changed, went, again, gone, _ = events
    assert came.new_record is not None
    assert came.old_record is None
    assert came.new_record[column] == 11
    assert went.old_record is not None
    assert went.old_record[column] == 12
    assert again.new_record == came.new_record | {column: 13}
    assert gone.old_record is not None
    assert gone.old_record[column] == 13
    full = identity == "FULL"
    assert changed.changes == ({"size": Change(11, 12)} if full else None)
    for event in events:
        assert_survives(event)


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize("columns", ["id, size", "size, id"])
def test_columns_outside_the_column_list_are_deferred(
    atlas: Atlas, columns: str
) -> None:
    atlas.execute(PLACE)
    atlas.watch(f"FOR TABLE atlas.place ({columns})", "exact.Place")
    atlas.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    atlas.execute("UPDATE atlas.place SET name = 'Oslo'")
    atlas.execute("UPDATE atlas.place SET id = 2")
    atlas.execute("DELETE FROM atlas.place")
    atlas.execute("INSERT INTO atlas.place VALUES (3, 'Bonn', 7)")

    inserted, same, moved, gone, last = atlas.events()
    assert inserted.new_record == same.new_record == {"id": 1, "size": 5}
    assert dict(inserted.source.columns) == {"id": "integer", "size": "integer"}
    assert moved.old_record == {"id": 1}
    assert gone.old_record == {"id": 2}
    assert loaded(inserted.instance) == {"id": 1, "size": 5}
    for event in (inserted, same, moved, gone, last):
        assert event.unchanged == ()
        assert_survives(event)
    assert isinstance(last.instance, Place)
    assert last.instance.name == "Bonn"


@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
def test_server_refuses_updates_if_the_column_list_lacks_the_identity(
    atlas: Atlas, identity: str
) -> None:
    atlas.execute(PLACE)
    atlas.execute(f"ALTER TABLE atlas.place REPLICA IDENTITY {identity}")
    listed = "size" if identity == "DEFAULT" else "id, size"
    atlas.watch(f"FOR TABLE atlas.place ({listed})", "exact.Place")
    atlas.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        atlas.execute("UPDATE atlas.place SET size = 6")

    (event,) = atlas.events()
    assert event.new_record is not None
    assert event.new_record["size"] == 5
    assert_survives(event)


STORED = ("STORED", "FOR TABLE atlas.circle")
VIRTUAL = ("VIRTUAL", "FOR TABLE atlas.circle")
OPTION = (
    "STORED",
    "FOR TABLE atlas.circle WITH (publish_generated_columns = stored)",
)
LISTED = ("STORED", "FOR TABLE atlas.circle (id, radius, area)")


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize(
    ("circle", "identity", "since", "published"),
    [
        pytest.param(STORED, "DEFAULT", 15, False, id="stored"),
        pytest.param(VIRTUAL, "DEFAULT", 18, False, id="virtual"),
        pytest.param(OPTION, "DEFAULT", 18, True, id="by option"),
        pytest.param(OPTION, "FULL", 18, True, id="by option, full"),
        pytest.param(LISTED, "DEFAULT", 18, True, id="listed"),
    ],
)
def test_generated_columns_are_deferred_unless_published(
    atlas: Atlas, circle: tuple[str, str], identity: str, since: int, published: bool
) -> None:
    kind, publication = circle
    if atlas.version < since:
        # This server does not support it.
        with pytest.raises(psycopg.DatabaseError):
            make_circle(atlas, kind, identity, publication)
        return
    make_circle(atlas, kind, identity, publication)
    Circle.objects.create(id=1, radius=3)
    Circle.objects.update(radius=4)

    created, grown = atlas.events()
    area = {"area": 16} if published else {}
    assert grown.new_record == {"id": 1, "radius": 4, **area}
    assert loaded(grown.instance) == grown.new_record
    changes = {"radius": Change(3, 4), "area": Change(9, 16)}
    assert grown.changes == (changes if identity == "FULL" else None)
    for event in (created, grown):
        assert event.unchanged == ()
        assert_survives(event)
    assert isinstance(created.instance, Circle)
    assert created.instance.get_deferred_fields() == (set() if published else {"area"})
    assert created.instance.area == (9 if published else 16)  # the current value


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize("circle", [STORED, VIRTUAL], ids=["stored", "virtual"])
def test_old_row_with_an_unpublished_generated_column(
    atlas: Atlas, circle: tuple[str, str]
) -> None:
    kind, publication = circle
    if atlas.version < 18:
        make_circle(atlas, "STORED", "FULL", publication)
        Circle.objects.create(id=1, radius=3)
        Circle.objects.update(radius=4)
        _, grown = atlas.events()
        assert grown.changes == {"radius": Change(3, 4)}
        assert grown.old_record == {"id": 1, "radius": 3}
        return
    make_circle(atlas, kind, "FULL", publication)
    Circle.objects.create(id=1, radius=3)
    with pytest.raises(ProgrammingError, match="unpublished generated columns"):
        Circle.objects.update(radius=4)
    (created,) = atlas.events()
    assert created.new_record == {"id": 1, "radius": 3}


def make_circle(atlas: Atlas, kind: str, identity: str, publication: str) -> None:
    atlas.execute(CIRCLE.format(kind))
    atlas.execute(f"ALTER TABLE atlas.circle REPLICA IDENTITY {identity}")
    atlas.watch(publication, "exact.Circle")
