"""Types that are registered with psycopg, and types that no longer exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

import psycopg
import pytest
from psycopg.adapt import AdaptersMap
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum

from tests.listening import Listening
from walex_django.provisioning.plan import setup_plan
from walex_django.replication.connection import Connection, connect

from .recorder import stream
from .sameness import assert_survives

pytestmark = pytest.mark.django_db(transaction=True)


class Here(StrEnum):
    h = "h"


class Pair(NamedTuple):
    x: int
    y: str


@pytest.fixture
def sql(transactional_db: None) -> Iterator[Connection]:
    """A session, with a schema whose tables are published."""
    with connect(stream().connection_parameters()) as connection:
        connection.execute(
            "CREATE SCHEMA made; CREATE PUBLICATION exact_events"
            " FOR TABLES IN SCHEMA made"
        )
        yield connection
        connection.execute("DROP PUBLICATION exact_events; DROP SCHEMA made CASCADE")


@pytest.fixture
def adapters() -> Iterator[AdaptersMap]:
    """Psycopg's global adapters, restored after the test."""
    known = AdaptersMap(psycopg.adapters)
    yield psycopg.adapters
    registry = psycopg.adapters.types
    registry._registry = known.types._registry
    registry._own_state = False
    for name in ("_dumpers", "_dumpers_by_oid", "_loaders"):
        setattr(psycopg.adapters, name, getattr(known, name))


def test_types_registered_with_psycopg_take_precedence(
    sql: Connection, adapters: AdaptersMap
) -> None:
    sql.execute(
        """
        CREATE TYPE made.here AS ENUM ('h');
        CREATE TYPE made.pair AS (x integer, y text);
        CREATE DOMAIN made.place AS made.here;
        CREATE TABLE made.registered (id serial PRIMARY KEY, here made.here,
            heres made.here[], place made.place, pair made.pair, pairs made.pair[])
        """
    )
    enum = EnumInfo.fetch(sql, "made.here")
    pair = CompositeInfo.fetch(sql, "made.pair")
    assert enum
    assert pair
    register_enum(enum, None, Here)
    register_composite(pair, None, Pair)
    with Listening(stream("made.*")) as listening:
        sql.execute(
            "INSERT INTO made.registered VALUES (1, 'h', '{h,NULL}', 'h',"
            " ROW(1, 'a,b'), ARRAY[ROW(1, 'a')]::made.pair[])"
        )
        (event,) = listening.wait_for(1)
        assert event.new_record == {
            "id": 1,
            "here": Here.h,
            "heres": [Here.h, None],
            "place": Here.h,
            "pair": Pair(1, "a,b"),
            "pairs": [Pair(1, "a")],
        }
        assert_survives(event)


def test_backlog_with_dropped_types_and_tables(sql: Connection) -> None:
    config = replace(stream("made.*"), durable_slot=True)
    sql.execute(
        """
        CREATE TYPE made.short AS ENUM ('a b');
        CREATE DOMAIN made.brief AS integer;
        CREATE TYPE made.both AS (short made.short, brief made.brief);
        CREATE TABLE made.kept (id serial PRIMARY KEY, short made.short,
            shorts made.short[], brief made.brief, briefs made.brief[],
            both_ made.both, boths made.both[]);
        CREATE TABLE made.dropped (LIKE made.kept)
        """
    )
    for step in setup_plan(config, sql):
        sql.execute(step.statement)
    try:
        sql.execute(
            """
            INSERT INTO made.kept VALUES (1, 'a b', '{a b,NULL}', 7, '{7}',
                ROW('a b', 7), ARRAY[ROW('a b', 7)]::made.both[]);
            INSERT INTO made.dropped SELECT * FROM made.kept
            """
        )
        sql.execute(
            """
            DROP TABLE made.dropped;
            ALTER TABLE made.kept DROP short, DROP shorts, DROP brief, DROP briefs,
                DROP both_, DROP boths;
            DROP TYPE made.both;
            DROP TYPE made.short;
            DROP DOMAIN made.brief
            """
        )
        with Listening(config) as listening:
            kept, dropped = listening.wait_for(2)
    finally:
        sql.execute("SELECT pg_drop_replication_slot('exact_walex')")
    assert (kept.name, dropped.name) == ("kept", "dropped")
    for event in (kept, dropped):
        assert event.new_record is not None
        assert {name: str(value) for name, value in event.new_record.items()} == {
            "id": "1",
            "short": "a b",
            "shorts": '{"a b",NULL}',
            "brief": "7",
            "briefs": "{7}",
            "both_": '("a b",7)',
            "boths": '{"(\\"a b\\",7)"}',
        }
        assert_survives(event)
