"""What waits in a slot outlives renamed tables, dropped ones and broken connections."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.db import connections

from tests.listening import Listening
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning.plan import setup_plan
from walex_django.replication.errors import PublicationMissing
from walex_django.signals import post_db_insert

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("move", "back", "db_table"),
    [
        (
            "ALTER TABLE zoo_keeper RENAME TO zoo_warden",
            "ALTER TABLE zoo_warden RENAME TO zoo_keeper",
            "zoo_warden",
        ),
        (
            "ALTER TABLE zoo_keeper SET SCHEMA legacy",
            "ALTER TABLE legacy.zoo_keeper SET SCHEMA public",
            'legacy"."zoo_keeper',
        ),
    ],
    ids=["renamed", "in another schema"],
)
def test_a_table_that_has_moved_since_keeps_its_model(
    durable: StreamConfig,
    sql: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    move: str,
    back: str,
    db_table: str,
) -> None:
    zoo_only = replace(durable, subscriptions=("zoo.*",))
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
    sql.execute(move.encode())
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Keeper._meta, "db_table", db_table)
            with Listening(zoo_only) as listening:
                (event,) = listening.wait_for(1)
    finally:
        sql.execute(back.encode())

    assert event.model is Keeper
    assert (event.source.schema, event.source.table) == ("public", "zoo_keeper")
    # Not read before: fields remember the name that their table had at first use.
    assert isinstance(event.instance, Keeper)
    assert event.instance.name == "Ada"


def test_a_table_that_is_gone_is_warned_of_and_passed(
    durable: StreamConfig,
    sql: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sql.execute("CREATE TABLE zoo_gone (id int PRIMARY KEY)")
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE zoo_gone")
    sql.execute("INSERT INTO zoo_gone VALUES (1)")
    sql.execute("DROP TABLE zoo_gone")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")

    with Listening(durable) as listening:
        (event,) = listening.wait_for(1)

    assert event.model is Keeper
    (warning,) = (each for each in caplog.records if each.levelno == logging.WARNING)
    assert "The table public.zoo_gone is gone" in warning.getMessage()
    assert "Subscribe to it by its name" in warning.getMessage()


def test_a_table_that_is_gone_arrives_if_subscribed_by_name(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    by_name = replace(durable, subscriptions=("*",))
    sql.execute("CREATE TABLE zoo_gone (id int PRIMARY KEY)")
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE zoo_gone")
    sql.execute("INSERT INTO zoo_gone VALUES (1)")
    sql.execute("DROP TABLE zoo_gone")

    with Listening(by_name) as listening:
        (event,) = listening.wait_for(1)

    assert (event.model, event.new_record) == (None, {"id": 1})


def test_what_came_before_the_servers_error_is_delivered_once(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('good')")
    sql.execute("DROP PUBLICATION zoo_events")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('unpublished')")
    for step in setup_plan(durable, sql):
        sql.execute(step.statement)

    first, error = _listen_to_the_end(durable)
    again, same_error = _listen_to_the_end(durable)

    assert first == ["good"]
    assert again == []
    for each in (error, same_error):
        assert isinstance(each, PublicationMissing)
        assert '"zoo_events"' in str(each)
        assert re.search(r"made at [0-9A-F]+/[0-9A-F]+ while", str(each))
        assert "python manage.py walex_setup --recreate-slot" in str(each)


@pytest.fixture
def backends(config: StreamConfig) -> Iterator[list[int]]:
    """Process ids of the ORM's sessions in which receivers heard of a keeper."""
    pids: list[int] = []

    def receiver(**kwargs: Any) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])

    post_db_insert.connect(receiver, sender=Keeper)
    yield pids
    post_db_insert.disconnect(receiver, sender=Keeper)


def test_an_idle_connection_that_the_server_ended_is_renewed(
    listening: Listening, sql: psycopg.Connection[Any], backends: list[int]
) -> None:
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
    listening.wait_for(1)
    (pid,) = backends
    sql.execute("SELECT pg_terminate_backend(%s)", [pid])
    eventually(lambda: not _is_there(sql, pid), "the session's end")

    # A table of no model makes the listener ask the catalogue.
    sql.execute("INSERT INTO legacy.nobody_knows (message) VALUES ('hello')")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Bob')")

    names = [event.name for event in listening.wait_for(3)]
    assert names == ["zoo_keeper", "nobody_knows", "zoo_keeper"]
    assert len(set(backends)) == 2


def _listen_to_the_end(config: StreamConfig) -> tuple[list[str], Exception | None]:
    """Return the names that were heard of, and what ended the listener."""
    with Listening(config) as listening:
        error = listening.wait_for_end()
    return [(event.new_record or {})["name"] for event in listening.events], error


def _is_there(sql: psycopg.Connection[Any], pid: int) -> bool:
    found = sql.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid])
    return found.fetchone() is not None
