"""Unusual names of tables, columns, schemas and publications are matched exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from psycopg import sql

from walex_django import Change, Event

from .atlas import Atlas
from .sameness import assert_survives, loaded
from .tables_models import Dotted, LongName, OtherTwin, Select, Twin

ODD = [
    "select",
    "user",
    "MiXed",
    "mixed",
    "MIXED",
    " with spaces ",
    "a.b.c",
    ".",
    "*",
    'quo"ted',
    '""',
    "it's",
    "back\\slash",
    "per%cent %s %(name)s {0} {}",
    "new\nline\ttab",
    "größe",
    "gro\u0308ße",  # looks the same but has other code points
    "表🦉",
    "é" * 31,
    "n" * 63,
    "__class__",
    "pk",
    "self",
    "walex_django.ExactText",
    "$1",
    "1",
]


def identifier(*names: str) -> str:
    return sql.Identifier(*names).as_string()


def test_columns_with_unusual_names(atlas: Atlas) -> None:
    columns = ", ".join(f"{identifier(name)} text" for name in ODD)
    atlas.execute(f"CREATE TABLE atlas.odd ({columns})")
    atlas.execute("ALTER TABLE atlas.odd REPLICA IDENTITY FULL")
    atlas.watch()
    values = ", ".join(f"'{n}'" for n in range(len(ODD)))
    atlas.execute(f"INSERT INTO atlas.odd VALUES ({values})")
    for name in ODD:
        atlas.execute(f"UPDATE atlas.odd SET {identifier(name)} = 'new'")

    inserted, *updated = atlas.events()
    assert inserted.new_record == {name: str(n) for n, name in enumerate(ODD)}
    assert [event.changes for event in updated] == [
        {name: Change(str(n), "new")} for n, name in enumerate(ODD)
    ]
    for event in (inserted, *updated):
        assert list(event.source.columns) == ODD
        assert_survives(event)


@pytest.mark.parametrize("subscription", ["all", "each", "schemas"])
def test_tables_and_schemas_with_unusual_names(atlas: Atlas, subscription: str) -> None:
    """Schema names have no dot, since subscriptions are split at the first one."""
    schemas = ["Atlas 2", "SELECT", 'at"las', "ätläs 🦉", "%s", "s" * 63]
    names = [(schema, name) for schema in schemas for name in ODD]
    atlas.execute(
        "".join(f"CREATE SCHEMA {identifier(schema)};" for schema in schemas)
        + "".join(f"CREATE TABLE {identifier(*name)} (id int);" for name in names)
    )
    subscriptions = {
        "all": ["*"],
        "each": [f"{schema}.{name}" for schema, name in names if name != "*"],
        "schemas": [f"{schema}.*" for schema in schemas],
    }
    atlas.watch("FOR ALL TABLES", *subscriptions[subscription])
    atlas.execute(
        "".join(
            f"INSERT INTO {identifier(*name)} VALUES ({n});"
            for n, name in enumerate(names)
        )
    )

    events = atlas.events()
    assert [
        (e.source.schema, e.source.table, (e.new_record or {})["id"]) for e in events
    ] == [
        (*name, n)
        for n, name in enumerate(names)
        if subscription != "each" or name[1] != "*"
    ]
    assert {event.model for event in events} == {None}
    for event in events[::7]:
        assert event.name == event.source.table
        assert_survives(event)


def test_models_with_unusual_names(atlas: Atlas) -> None:
    atlas.execute("""
        CREATE TABLE atlas."Sélect Ünique" (
            "größe 🦉" text, "select" text, "a.b c" text, "Select" text,
            "user" int PRIMARY KEY
        );
        CREATE TABLE atlas."sélect ünique" ("user" int PRIMARY KEY);
        CREATE TABLE atlas."do.t""ted" (id int PRIMARY KEY, name text);
        CREATE TABLE atlas.do (id int PRIMARY KEY, name text);
    """)
    column, table = "c" * 63, "t" * 63
    atlas.execute(f"CREATE TABLE atlas.{table} (id int, {column} text)")
    atlas.execute(f"CREATE TABLE atlas.{table[:-1]} (id int, {column} text)")
    atlas.watch("FOR ALL TABLES", "exact.Select", "exact.Dotted", "exact.LongName")
    rows = [
        Select(id=1, table="T", lower="l", dotted="d", uni="u"),
        Dotted(id=2, name="dotted"),
        LongName(id=3, value="long"),
    ]
    for row in rows:
        row.save(force_insert=True)
        atlas.execute('INSERT INTO atlas."sélect ünique" VALUES (%s)', [row.pk])
        atlas.execute("INSERT INTO atlas.do VALUES (%s)", [row.pk])
        atlas.execute(f"INSERT INTO atlas.{table[:-1]} VALUES (%s)", [row.pk])

    events = atlas.events()
    assert [event.model for event in events] == [Select, Dotted, LongName]
    for event, row in zip(events, rows, strict=True):
        assert loaded(event.instance) == loaded(row)
        assert_survives(event)


@pytest.mark.parametrize(
    ("subscriptions", "models"),
    [
        (["exact.Twin"], [Twin]),
        (["exact.OtherTwin"], [OtherTwin]),
        (["atlas.twin"], [Twin]),
        (["exact.*"], [Twin, OtherTwin]),
        (["*"], [Twin, OtherTwin, None]),
        (["third.*"], [None]),
    ],
)
def test_same_table_name_in_several_schemas(
    atlas: Atlas, subscriptions: list[str], models: list[Any]
) -> None:
    atlas.execute("""
        CREATE TABLE atlas.twin (id int PRIMARY KEY, name text);
        CREATE SCHEMA "Atlas.2";
        CREATE TABLE "Atlas.2".twin (name text, id bigint PRIMARY KEY, more int);
        CREATE SCHEMA third;
        CREATE TABLE third.twin (id text, name int);
    """)
    atlas.watch("FOR ALL TABLES", *subscriptions)
    atlas.execute("""
        INSERT INTO atlas.twin VALUES (1, 'one');
        INSERT INTO "Atlas.2".twin VALUES ('two', 2, 3);
        INSERT INTO third.twin VALUES ('x', 3);
    """)

    events = atlas.events()
    assert [event.model for event in events] == models
    instances = {event.model: loaded(event.instance) for event in events}
    expected: dict[Any, Any] = {
        Twin: {"id": 1, "name": "one"},
        OtherTwin: {"id": 2, "name": "two"},
        None: None,
    }
    assert instances == {model: expected[model] for model in models}
    for event in events:
        assert_survives(event)


@pytest.mark.parametrize(
    "publication",
    ["select", "Ev ents", 'quo"ted', "it's", "a,b", "a.b", "back\\slash", "é" * 31],
)
def test_publications_with_unusual_names(atlas: Atlas, publication: str) -> None:
    check_stream_of(atlas, publication)


@pytest.mark.parametrize("any_atlas", ["backlog"], indirect=True)
def test_durable_slot_and_publication_with_unusual_names(any_atlas: Atlas) -> None:
    check_stream_of(any_atlas, "it's \"a, b\\")


def check_stream_of(atlas: Atlas, publication: str) -> None:
    atlas.config = replace(
        atlas.config,
        publications=(publication, *atlas.config.publications[1:]),
        # Slot names may only have lower-case letters, digits and underscores.
        slot_name="_" + "0" * 61 + "z",
    )
    atlas.execute("CREATE TABLE atlas.twin (id int PRIMARY KEY, name text)")
    atlas.watch()
    atlas.execute("INSERT INTO atlas.twin VALUES (1, 'one')")

    events: list[Event] = atlas.events()
    assert [event.model for event in events] == [Twin]
