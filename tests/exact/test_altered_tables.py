"""Each row is decoded with the table's definition at the time of its write."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import ProgrammingError

from walex_django import Change

from .atlas import Atlas
from .sameness import assert_same, assert_survives, loaded
from .tables_models import Place

CHANGES = [
    "ALTER TABLE {} ADD extra text",
    "ALTER TABLE {} ADD extra int NOT NULL DEFAULT 7",
    "ALTER TABLE {} ADD extra uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE {} ADD extra int, ADD other text DEFAULT 'x', DROP name",
    "ALTER TABLE {} DROP id",
    "ALTER TABLE {} DROP name",
    "ALTER TABLE {} DROP name, DROP size",
    "ALTER TABLE {} RENAME name TO title",
    """ALTER TABLE {0} RENAME id TO a; ALTER TABLE {0} RENAME size TO id;
    ALTER TABLE {0} RENAME a TO size""",
    "ALTER TABLE {} ALTER size TYPE text",
    "ALTER TABLE {} ALTER size TYPE bigint",
    "ALTER TABLE {} ALTER size TYPE numeric(8, 3)",
    "ALTER TABLE {} ALTER size TYPE date USING DATE '2026-01-01' + size",
    "ALTER TABLE {} ALTER size TYPE int[] USING ARRAY[size, NULL]",
    "ALTER TABLE {} ALTER name TYPE int USING name::int",
    "ALTER TABLE {} ALTER name TYPE jsonb USING jsonb_build_object('n', name)",
    "ALTER TABLE {} ALTER name TYPE jsonb USING name::jsonb",
    "ALTER TABLE {} ALTER name TYPE bytea USING name::bytea",
    "ALTER TABLE {} ALTER name TYPE text, ALTER size TYPE text",
    "ALTER TABLE {0} DROP name; ALTER TABLE {0} ADD name varchar(20) DEFAULT 'new'",
    "ALTER TABLE {0} DROP size; ALTER TABLE {0} ADD size text DEFAULT 'new'",
    "ALTER TABLE {0} ADD extra int; ALTER TABLE {0} DROP extra",
    "ALTER TABLE {} ADD PRIMARY KEY (id)",
    "ALTER TABLE {} ALTER size SET DEFAULT 1, ALTER size SET NOT NULL",
]


def rows(atlas: Atlas, table: str) -> list[dict[str, Any]]:
    cursor = atlas.connection.execute(f"SELECT * FROM {table} ORDER BY 1".encode())
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def types(atlas: Atlas, table: str) -> dict[str, str]:
    cursor = atlas.connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid"
        " = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    return dict(cursor.fetchall())


@pytest.mark.parametrize("within", ["between", "inside"])
def test_each_row_has_the_columns_at_its_place_in_the_wal(
    any_atlas: Atlas, within: str
) -> None:
    tables = [f"atlas.t{n}" for n in range(len(CHANGES))]
    any_atlas.execute(
        "".join(
            f"CREATE TABLE {table} (id int, name varchar(20), size int);"
            f"ALTER TABLE {table} REPLICA IDENTITY FULL;"
            for table in tables
        )
    )
    any_atlas.watch()
    snapshots = []
    for table, change in zip(tables, CHANGES, strict=True):
        if within == "inside":
            any_atlas.execute("BEGIN")
        any_atlas.execute(f"INSERT INTO {table} VALUES (1, '12', 34)")
        before, old_types = rows(any_atlas, table), types(any_atlas, table)
        any_atlas.execute(change.format(table))
        after = rows(any_atlas, table)
        some = next(iter(after[0]))
        any_atlas.execute(f"UPDATE {table} SET {some} = {some}")
        any_atlas.execute(f"DELETE FROM {table}")
        snapshots.append((before, old_types, after, types(any_atlas, table)))
        if within == "inside":
            any_atlas.execute("COMMIT")

    events = any_atlas.events()
    assert len(events) == 3 * len(CHANGES)
    for n, ((old,), old_types, (new,), new_types) in enumerate(snapshots):
        inserted, updated, deleted = events[3 * n : 3 * n + 3]
        assert_same(inserted.new_record, old)
        assert dict(inserted.source.columns) == old_types
        # Rows written before have the columns added since.
        assert_same(updated.old_record, new)
        assert_same(updated.new_record, new)
        assert updated.changes == {}
        assert_same(deleted.old_record, new)
        assert list(deleted.source.columns.items()) == list(new_types.items())
        for event in (inserted, updated, deleted):
            assert_survives(event)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("walex_django") and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize(
    "change", ["DROP size", "RENAME size TO area"], ids=["dropped", "renamed"]
)
@pytest.mark.parametrize("within", ["between", "inside"])
def test_model_with_a_missing_column_gets_events_and_one_warning(
    place: Atlas, caplog: pytest.LogCaptureFixture, change: str, within: str
) -> None:
    place.watch()
    begin, commit = ("BEGIN", "COMMIT") if within == "inside" else ("", "")
    place.execute(begin)
    place.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    place.execute(f"ALTER TABLE atlas.place {change}")
    place.execute("INSERT INTO atlas.place VALUES (2, 'Oslo')")
    # The server describes the table again.
    place.execute("ALTER TABLE atlas.place ADD extra int DEFAULT 3")
    place.execute("INSERT INTO atlas.place VALUES (3, 'Bonn')")
    place.execute(commit)

    first, *others = place.events()
    assert loaded(first.instance) == {"id": 1, "name": "Rome", "size": 5}
    assert [loaded(event.instance) for event in others] == [
        {"id": 2, "name": "Oslo"},
        {"id": 3, "name": "Bonn"},
    ]
    assert isinstance(others[1].instance, Place)
    with pytest.raises(ProgrammingError, match="size"):
        _ = others[1].instance.size
    assert others[1].new_record is not None
    assert others[1].new_record["extra"] == 3
    (warning,) = warnings(caplog)
    assert "exact.Place" in warning
    assert "size" in warning
    for event in (first, *others):
        assert_survives(event)


def test_no_warning_for_rows_written_before_the_table_fits_the_model(
    place: Atlas, caplog: pytest.LogCaptureFixture
) -> None:
    place.execute("ALTER TABLE atlas.place RENAME size TO later")
    place.watch()
    place.execute("""
        BEGIN;
        INSERT INTO atlas.place VALUES (1, 'Rome', 5);
        ALTER TABLE atlas.place RENAME later TO size;
        INSERT INTO atlas.place VALUES (2, 'Oslo', 6);
        ALTER TABLE atlas.place ADD extra int DEFAULT 3;
        INSERT INTO atlas.place VALUES (3, 'Bonn', 7);
        COMMIT
    """)

    early, *others = place.events()
    assert loaded(early.instance) == {"id": 1, "name": "Rome"}
    assert isinstance(early.instance, Place)
    assert early.instance.size == 5
    assert [loaded(event.instance) for event in others] == [
        {"id": 2, "name": "Oslo", "size": 6},
        {"id": 3, "name": "Bonn", "size": 7},
    ]
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "change",
    [
        "ALTER size TYPE text",
        "ALTER size TYPE numeric(6, 2)",
        "ALTER name TYPE int USING length(name)",
        "ALTER name TYPE jsonb USING to_jsonb(name)",
        "DROP size; ADD size bigint DEFAULT 8",
    ],
)
def test_instances_have_the_same_types_as_in_the_orm(place: Atlas, change: str) -> None:
    place.watch()
    place.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    before = loaded(Place.objects.get())
    for part in change.split("; "):
        place.execute(f"ALTER TABLE atlas.place {part}")
    place.execute("UPDATE atlas.place SET id = 2")

    inserted, moved = place.events()
    assert_same(loaded(inserted.instance), before)
    after = loaded(Place.objects.get())
    instance = loaded(moved.instance)
    assert instance is not None
    assert after is not None
    assert_same({name: instance[name] for name in after}, after)
    assert moved.old_record == {"id": 1}
    for event in (inserted, moved):
        assert_survives(event)


def test_rows_before_and_after_alter_table_in_one_transaction(
    place: Atlas,
) -> None:
    place.execute("INSERT INTO atlas.place VALUES (1, 'Rome', 5)")
    place.execute("ALTER TABLE atlas.place REPLICA IDENTITY FULL")
    place.watch()
    place.execute("""
        BEGIN;
        UPDATE atlas.place SET size = 6;
        SAVEPOINT one;
        ALTER TABLE atlas.place DROP size;
        UPDATE atlas.place SET name = 'gone';
        ROLLBACK TO SAVEPOINT one;
        UPDATE atlas.place SET size = 7;
        ALTER TABLE atlas.place ALTER size TYPE text;
        UPDATE atlas.place SET size = '8';
        COMMIT
    """)

    events = place.events()
    assert [event.changes for event in events] == [
        {"size": Change(5, 6)},
        {"size": Change(6, 7)},
        {"size": Change("7", "8")},
    ]
