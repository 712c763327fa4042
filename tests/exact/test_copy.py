"""Events contain enough to maintain an exact copy of any table."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from random import Random

import psycopg
import pytest

from tests.listening import Listening
from walex_django import Event
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig

from .random_changes import Changes
from .random_session import Connection
from .random_tables import JOURNAL, SCHEMAS, Maker, Table, quoted
from .random_values import USER_TYPES
from .replica import Data, Replica

_COPIES = ["by values ", "by JSON "]


@pytest.fixture
def seed() -> int:
    """The seed of the test: ``WALEX_TEST_SEED``, or a random one."""
    seed = int(os.environ.get("WALEX_TEST_SEED") or secrets.randbelow(10**6))
    print(f"WALEX_TEST_SEED={seed}")  # pytest shows it with a failure
    return seed


@pytest.fixture
def random_config(transactional_db: None) -> Iterator[StreamConfig]:
    """A stream of all tables that the test creates; drops them afterwards."""
    config = replace(
        get_config("default"),
        publications=("random_events",),
        slot_name="random_walex",
        durable_slot=False,
        subscriptions=tuple(f"{schema}.*" for schema in SCHEMAS),
    )
    with session(config) as connection:
        found = connection.execute("SELECT extname FROM pg_extension").fetchall()
        made = {"citext", "hstore", "ltree"} - {name for (name,) in found}
        for extension in made:
            run(connection, f"CREATE EXTENSION {extension}")
        connection.commit()
        try:
            yield config
        finally:
            connection.rollback()
            for schema in ["odd types", *SCHEMAS]:
                for copy in ["", *_COPIES]:
                    run(
                        connection,
                        f"DROP SCHEMA IF EXISTS {quoted(copy + schema)} CASCADE",
                    )
            run(connection, "DROP PUBLICATION IF EXISTS random_events")
            for extension in made:
                run(connection, f"DROP EXTENSION {extension}")
            connection.commit()


@contextmanager
def session(config: StreamConfig) -> Iterator[Connection]:
    """Connect as an ordinary client."""
    with psycopg.connect(**config.connection_parameters()) as connection:
        yield connection


def run(connection: Connection, statement: str) -> None:
    connection.execute(statement.encode(), ())


def make(connection: Connection, maker: Maker) -> list[Table]:
    """Create tables of all kinds and a publication of them."""
    for schema in SCHEMAS:
        run(connection, f"CREATE SCHEMA {quoted(schema)}")
    for statement in filter(str.strip, USER_TYPES.split(";")):
        run(connection, statement)
    tables = maker.all()
    for table in tables:
        for statement in table.create():
            run(connection, statement)
    run(
        connection,
        f"CREATE TABLE {quoted(*JOURNAL)} (id bigint PRIMARY KEY, place bigint,"
        " statement text, schema text, name text)",
    )
    names = ", ".join([quoted(*JOURNAL), *(table.sql for table in tables)])
    options = "publish_via_partition_root = true"
    if maker.published_generated:
        options += ", publish_generated_columns = stored"
    run(
        connection,
        f"CREATE PUBLICATION random_events FOR TABLE {names} WITH ({options})",
    )
    return tables


@pytest.mark.parametrize("rows", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_copy_maintained_from_events_equals_the_original(
    random_config: StreamConfig, seed: int, rows: int
) -> None:
    random = Random(seed)
    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(session(random_config)) for _ in range(3)
        )
        maker = Maker(random, first.info.server_version)
        tables = make(first, maker)
        first.commit()
        by_values, by_json = (
            Replica(third, name, tables, published_generated=maker.published_generated)
            for name in _COPIES
        )
        third.commit()

        with Listening(random_config) as listening:
            changes = Changes(random, [first, second], tables)
            changes.make(rows)
            listening.wait_until(
                lambda: all_delivered(listening.events, changes.commits)
            )
        events = listening.events
        assert len(events) > rows
        check_order(events, changes.commits)

        pairs = [(event, event.as_dict()) for event in events]
        by_values.apply(pairs)
        by_json.apply(decoded(json.dumps(data)) for _, data in pairs)

        for table in tables:
            for name in _COPIES:
                assert not differing_columns(third, table, name), (
                    table.sql,
                    changes.done,
                )


def all_delivered(events: Sequence[Event], commits: int) -> bool:
    return bool(events) and commit_number(events[-1]) == commits


def commit_number(event: Event) -> int | None:
    """Return the number of the commit that an entry of the journal ends."""
    if (event.source.schema, event.source.table) != JOURNAL:
        return None
    assert event.new_record
    found: int | None = event.new_record["place"]
    return found


def check_order(events: Sequence[Event], commits: int) -> None:
    assert len({event.id for event in events}) == len(events)
    positions = [(event.lsn, event.ordinal) for event in events]
    assert positions == sorted(positions)
    ends = [event for event in events if commit_number(event)]
    assert [commit_number(event) for event in ends] == list(range(1, commits + 1))
    # Each transaction is complete: its last row is its entry in the journal.
    transactions = list(dict.fromkeys(event.xid for event in events))
    assert [event.xid for event in ends] == transactions
    assert len({event.lsn for event in events}) == commits


def decoded(text: str) -> tuple[Event, Data]:
    """Return the event and the dict that a JSON text encodes."""
    data = json.loads(text)
    event = Event.from_dict(data)
    assert event.as_dict() == data
    return event, data


def differing_columns(connection: Connection, table: Table, copy: str) -> list[str]:
    """Return differences between the original and its copy, if possible by column."""
    names = [column.name for column in table.columns]
    rows = difference(connection, table, copy, names)
    columns = [
        f"{column}: {shown}"
        for column in table.columns
        for shown in difference(connection, table, copy, [column.name])
        if rows
    ]
    return columns or rows


def difference(
    connection: Connection, table: Table, copy: str, columns: Sequence[str]
) -> list[str]:
    shown = ", ".join(f"{quoted(column)}::text" for column in columns)
    original = f"SELECT {shown} FROM {table.sql}"
    copied = f"SELECT {shown} FROM {quoted(copy + table.schema, table.name)}"
    query = (
        f"SELECT left(one::text, 200) FROM (({original} EXCEPT ALL {copied})"
        f" UNION ALL ({copied} EXCEPT ALL {original})) AS one LIMIT 4"
    )
    return [row for (row,) in connection.execute(query.encode(), ())]
