"""Partitions and child tables have their ancestor's model, or their own."""

from __future__ import annotations

from typing import Any

import pytest

from walex_django import Change, Event

from .atlas import Atlas
from .sameness import assert_survives, loaded
from .tables_models import Isle, NearReading, Reading, Volcano

ROOT = (
    "CREATE TABLE atlas.reading (id int, area int, value text, PRIMARY KEY (id, area))"
)
LIST = f"""
    {ROOT} PARTITION BY LIST (area);
    CREATE TABLE atlas.reading_one PARTITION OF atlas.reading FOR VALUES IN (1);
    CREATE TABLE atlas.reading_two PARTITION OF atlas.reading FOR VALUES IN (2)
        PARTITION BY RANGE (id);
    CREATE TABLE atlas.two_low PARTITION OF atlas.reading_two
        FOR VALUES FROM (MINVALUE) TO (100);
    CREATE TABLE atlas.two_high PARTITION OF atlas.reading_two
        FOR VALUES FROM (100) TO (MAXVALUE);
    CREATE TABLE atlas.reading_rest PARTITION OF atlas.reading DEFAULT;
"""
HASH = f"""
    {ROOT} PARTITION BY HASH (id);
    CREATE TABLE atlas.reading_even PARTITION OF atlas.reading
        FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE atlas.reading_odd PARTITION OF atlas.reading
        FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""
by_root = pytest.mark.parametrize("root", [True, False], ids=["root", "leaf"])


def summary_of(events: list[Event]) -> list[tuple[str, str, Any]]:
    for event in events:
        assert_survives(event)
    return [(str(e.type), e.name, e.model and e.model.__name__) for e in events]


@by_root
@pytest.mark.parametrize(
    "subscription", ["exact.Reading", "atlas.reading", "atlas.*", "exact.*", "*"]
)
def test_partitions_have_the_model_of_their_root(
    atlas: Atlas, root: bool, subscription: str
) -> None:
    atlas.execute(LIST)
    atlas.watch("FOR TABLE atlas.reading", subscription, root=root)
    for id, area in ((1, 1), (2, 2), (200, 2), (3, 3)):
        Reading.objects.create(id=id, area=area, value="a")
    Reading.objects.filter(area=2).update(value="b")
    Reading.objects.get(pk=(3, 3)).delete()

    events = atlas.events()
    leaves = ["reading_one", "two_low", "two_high", "reading_rest"]
    if root:
        leaves = ["reading"] * 4
    _, low, high, rest = leaves
    summary = summary_of(events)
    assert summary[:4] == [("insert", name, "Reading") for name in leaves]
    assert sorted(summary[4:6]) == sorted(
        ("update", name, "Reading") for name in (low, high)
    )
    assert summary[6:] == [("delete", rest, "Reading")]
    assert {event.source.table for event in events} == {*leaves}
    assert [event.instance and event.instance.pk for event in events[:4]] == [
        *((1, 1), (2, 2), (200, 2), (3, 3))
    ]
    assert isinstance(events[5].instance, Reading)
    assert events[5].instance.value == "b"
    assert events[6].old_record == {"id": 3, "area": 3}


@by_root
def test_hash_partitions(atlas: Atlas, root: bool) -> None:
    atlas.execute(HASH)
    atlas.watch("FOR TABLE atlas.reading", "exact.Reading", root=root)
    atlas.execute("INSERT INTO atlas.reading SELECT n, n FROM generate_series(1, 9) n")

    events = atlas.events()
    tables = {"reading"} if root else {"reading_even", "reading_odd"}
    assert {event.name for event in events} == tables
    assert {event.model for event in events} == {Reading}
    assert sorted(event.instance.pk for event in events if event.instance) == [
        (n, n) for n in range(1, 10)
    ]


@by_root
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_row_that_moves_to_another_partition_is_deleted_and_inserted(
    atlas: Atlas, root: bool, identity: str
) -> None:
    atlas.execute(LIST)
    for table in ("reading", "reading_one", "two_low", "two_high", "reading_rest"):
        atlas.execute(f"ALTER TABLE atlas.{table} REPLICA IDENTITY {identity}")
    atlas.execute("INSERT INTO atlas.reading VALUES (1, 1, 'a')")
    atlas.watch("FOR TABLE atlas.reading", "exact.Reading", root=root)
    atlas.execute("UPDATE atlas.reading SET area = 2")
    atlas.execute("UPDATE atlas.reading SET id = 100")
    atlas.execute("UPDATE atlas.reading SET id = 101")

    events = atlas.events()
    leaves = ["reading_one", "two_low", "two_low", "two_high", "two_high"]
    kinds = ["delete", "insert", "delete", "insert", "update"]
    assert summary_of(events) == [
        (kind, "reading" if root else leaf, "Reading")
        for kind, leaf in zip(kinds, leaves, strict=True)
    ]
    gone, came, *_, within = events
    full = identity == "FULL"
    assert gone.old_record == {"id": 1, "area": 1} | ({"value": "a"} if full else {})
    assert came.new_record == {"id": 1, "area": 2, "value": "a"}
    assert within.changes == ({"id": Change(100, 101)} if full else None)
    assert gone.xid == came.xid


@by_root
def test_attached_detached_and_dropped_partitions(any_atlas: Atlas, root: bool) -> None:
    any_atlas.execute(LIST)
    any_atlas.execute(
        "CREATE TABLE atlas.odd"
        " (value text, gone int, area int NOT NULL, id int NOT NULL)"
    )
    any_atlas.execute("ALTER TABLE atlas.odd DROP gone")
    any_atlas.watch("FOR TABLES IN SCHEMA atlas", "atlas.*", root=root)
    steps = [
        "INSERT INTO atlas.odd VALUES ('before', 7, 1)",
        "ALTER TABLE atlas.reading ATTACH PARTITION atlas.odd FOR VALUES IN (7)",
        "INSERT INTO atlas.reading VALUES (2, 7, 'attached')",
        "INSERT INTO atlas.odd VALUES ('direct', 7, 3)",
        "UPDATE atlas.reading SET id = 4 WHERE id = 3",
        "ALTER TABLE atlas.reading DETACH PARTITION atlas.odd",
        "INSERT INTO atlas.odd VALUES ('detached', 7, 5)",
        "CREATE TABLE atlas.reading_new PARTITION OF atlas.reading FOR VALUES IN (8)",
        "INSERT INTO atlas.reading VALUES (6, 8, 'new')",
        "DROP TABLE atlas.reading_new",
        "DROP TABLE atlas.reading_one",
        "INSERT INTO atlas.reading VALUES (7, 1, 'default')",
    ]
    events = []
    for step in steps:
        any_atlas.execute(step)
        if not any_atlas.backlog:
            events += any_atlas.events()
    events = events or any_atlas.events()

    leaves = ["odd"] * 5 + ["reading_new", "reading_rest"]
    published = [
        "reading" if root and n not in (0, 4) else leaf for n, leaf in enumerate(leaves)
    ]
    assert [event.name for event in events] == published
    ids = [event.new_record and event.new_record["id"] for event in events]
    assert ids == [1, 2, 3, 4, 5, 6, 7]
    summary_of(events)
    if any_atlas.backlog and not root:
        # A table that is no longer a partition has lost its model.
        assert {event.model for event in events[:5]} == {None}
        assert events[5].model is None
    else:
        assert [event.model for event in events] == [
            *(None, Reading, Reading, Reading, None, Reading, Reading)
        ]
        for event in (*events[1:4], *events[5:]):
            assert loaded(event.instance) == event.new_record


def test_partition_with_its_own_model(atlas: Atlas) -> None:
    atlas.execute(f"""
        {ROOT} PARTITION BY RANGE (area);
        CREATE TABLE atlas.reading_near PARTITION OF atlas.reading
            FOR VALUES FROM (0) TO (10) PARTITION BY LIST (area);
        CREATE TABLE atlas.nearest PARTITION OF atlas.reading_near FOR VALUES IN (1);
        CREATE TABLE atlas.reading_far PARTITION OF atlas.reading
            FOR VALUES FROM (10) TO (20)
    """)
    atlas.watch("FOR TABLE atlas.reading", "exact.Reading")
    atlas.execute("INSERT INTO atlas.reading VALUES (1, 1, 'a'), (2, 11, 'b')")

    near, far = atlas.events()
    # The nearest ancestor with a model decides; a subscription to any covers it.
    assert (near.name, near.model) == ("nearest", NearReading)
    assert (far.name, far.model) == ("reading_far", Reading)
    assert isinstance(near.instance, NearReading)
    assert near.instance.pk == (1, 1)
    assert_survives(near)


def test_only_the_subscribed_partition_is_delivered(atlas: Atlas) -> None:
    atlas.execute(LIST)
    atlas.watch("FOR TABLE atlas.reading", "atlas.reading_two")
    atlas.execute("INSERT INTO atlas.reading VALUES (1, 1), (2, 2), (3, 3)")

    assert summary_of(atlas.events()) == [("insert", "two_low", "Reading")]


@by_root
def test_partition_with_another_column_order(atlas: Atlas, root: bool) -> None:
    atlas.execute(f"""
        {ROOT} PARTITION BY LIST (area);
        CREATE TABLE atlas.odd (
            dropped text, value text, area int NOT NULL, second int, id int NOT NULL
        );
        ALTER TABLE atlas.odd DROP dropped, DROP second;
        ALTER TABLE atlas.reading REPLICA IDENTITY FULL;
        ALTER TABLE atlas.odd REPLICA IDENTITY FULL;
        ALTER TABLE atlas.reading ATTACH PARTITION atlas.odd FOR VALUES IN (7);
    """)
    atlas.watch("FOR TABLE atlas.reading", "exact.Reading", root=root)
    atlas.execute("INSERT INTO atlas.reading VALUES (1, 7, 'a')")
    atlas.execute("UPDATE atlas.reading SET value = 'b'")
    atlas.execute("DELETE FROM atlas.reading")

    inserted, updated, deleted = atlas.events()
    assert list(inserted.new_record or ()) == (
        ["id", "area", "value"] if root else ["value", "area", "id"]
    )
    assert inserted.new_record == {"id": 1, "area": 7, "value": "a"}
    assert updated.changes == {"value": Change("a", "b")}
    assert deleted.old_record == {"id": 1, "area": 7, "value": "b"}
    for event in (inserted, updated, deleted):
        assert loaded(event.instance) == event.new_record or event is deleted
        assert_survives(event)


@pytest.mark.parametrize(
    ("of_root", "of_leaf"), [("FULL", "DEFAULT"), ("DEFAULT", "FULL")]
)
def test_root_and_partition_with_different_replica_identities(
    atlas: Atlas, of_root: str, of_leaf: str
) -> None:
    """ALTER TABLE … REPLICA IDENTITY of a root does not affect its partitions."""
    atlas.execute(LIST)
    atlas.execute(f"ALTER TABLE atlas.reading REPLICA IDENTITY {of_root}")
    atlas.execute(f"ALTER TABLE atlas.reading_one REPLICA IDENTITY {of_leaf}")
    atlas.watch("FOR TABLE atlas.reading", "exact.Reading", root=True)
    atlas.execute("INSERT INTO atlas.reading VALUES (1, 1, 'a')")
    atlas.execute("UPDATE atlas.reading SET value = 'b'")
    atlas.execute("UPDATE atlas.reading SET id = 2")
    atlas.execute("DELETE FROM atlas.reading")

    _, valued, moved, gone = atlas.events()
    # The unknown old value must not appear as NULL.
    assert valued.changes is None
    assert moved.changes is None
    assert moved.old_record == {"id": 1, "area": 1}
    assert gone.old_record == {"id": 2, "area": 1}
    assert gone.instance is not None
    assert gone.instance.get_deferred_fields() == {"value"}
    for event in (valued, moved, gone):
        assert_survives(event)


@pytest.mark.parametrize("subscription", ["exact.Isle", "atlas.isle"])
def test_child_tables_have_the_model_of_their_ancestor(
    atlas: Atlas, subscription: str
) -> None:
    atlas.execute("""
        CREATE TABLE atlas.isle (id int PRIMARY KEY, name text);
        CREATE TABLE atlas.coral (reef text) INHERITS (atlas.isle);
        ALTER TABLE atlas.coral REPLICA IDENTITY FULL;
        CREATE TABLE atlas.atoll (lagoon int, PRIMARY KEY (id)) INHERITS (atlas.coral);
        CREATE TABLE atlas.volcano (height int, PRIMARY KEY (id)) INHERITS (atlas.isle);
        CREATE TABLE atlas.stranger (id int, name text);
    """)
    atlas.watch("FOR ALL TABLES", subscription)
    atlas.execute("INSERT INTO atlas.isle VALUES (1, 'Man')")
    atlas.execute("INSERT INTO atlas.coral VALUES (2, 'Bikini', 'r')")
    atlas.execute("INSERT INTO atlas.atoll VALUES (3, 'Suvarov', 's', 4)")
    atlas.execute("INSERT INTO atlas.volcano VALUES (4, 'Etna', 3357)")
    atlas.execute("INSERT INTO atlas.stranger VALUES (5, 'nobody')")
    atlas.execute("UPDATE atlas.isle SET name = name || '!' WHERE id IN (1, 4)")

    events = atlas.events()
    assert summary_of(events) == [
        ("insert", "isle", "Isle"),
        ("insert", "coral", "Isle"),
        ("insert", "atoll", "Isle"),
        ("insert", "volcano", "Volcano"),
        ("update", "isle", "Isle"),
        ("update", "volcano", "Volcano"),
    ]
    atoll = {"id": 3, "name": "Suvarov", "reef": "s", "lagoon": 4}
    assert events[2].new_record == atoll
    assert events[2].instance == Isle(pk=3)
    etna = events[5].instance
    assert isinstance(etna, Volcano)
    assert (etna.name, etna.height) == ("Etna!", 3357)
    assert etna == Volcano.objects.get()
