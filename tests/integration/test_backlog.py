"""The backlog in a slot survives renamed or dropped tables and lost connections."""

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
def test_renamed_or_moved_table_keeps_its_model(
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
    # Read only now: fields cache the name that their table has at first use.
    assert isinstance(event.instance, Keeper)
    assert event.instance.name == "Ada"


def test_dropped_table_is_skipped_with_warning(
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
    assert "Table public.zoo_gone no longer exists" in warning.getMessage()
    assert "subscribe to the table by name" in warning.getMessage()


def test_dropped_table_is_delivered_if_subscribed_by_name(
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


def test_changes_before_server_error_are_delivered_once(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('good')")
    sql.execute("DROP PUBLICATION zoo_events")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('unpublished')")
    for step in setup_plan(durable, sql):
        sql.execute(step.statement)

    first, error = _listen_until_end(durable)
    again, same_error = _listen_until_end(durable)

    assert first == ["good"]
    assert again == []
    for each in (error, same_error):
        assert isinstance(each, PublicationMissing)
        assert '"zoo_events"' in str(each)
        assert re.search(r"made at [0-9A-F]+/[0-9A-F]+ while", str(each))
        assert "python manage.py walex_setup --recreate-slot" in str(each)


@pytest.fixture
def backends(config: StreamConfig) -> Iterator[list[int]]:
    """Process IDs of the ORM sessions in which a receiver was called for a keeper."""
    pids: list[int] = []

    def receiver(**kwargs: Any) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])

    post_db_insert.connect(receiver, sender=Keeper)
    yield pids
    post_db_insert.disconnect(receiver, sender=Keeper)


def test_idle_connection_closed_by_server_is_reopened(
    listening: Listening, sql: psycopg.Connection[Any], backends: list[int]
) -> None:
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
    listening.wait_for(1)
    (pid,) = backends
    sql.execute("SELECT pg_terminate_backend(%s)", [pid])
    eventually(lambda: not _session_exists(sql, pid), "the session's end")

    # A table without a model makes the listener query the catalog.
    sql.execute("INSERT INTO legacy.nobody_knows (message) VALUES ('hello')")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Bob')")

    names = [event.name for event in listening.wait_for(3)]
    assert names == ["zoo_keeper", "nobody_knows", "zoo_keeper"]
    assert len(set(backends)) == 2


def _listen_until_end(config: StreamConfig) -> tuple[list[str], Exception | None]:
    """Return the delivered names and the error that ended the listener."""
    with Listening(config) as listening:
        error = listening.wait_for_end()
    return [(event.new_record or {})["name"] for event in listening.events], error


def _session_exists(sql: psycopg.Connection[Any], pid: int) -> bool:
    found = sql.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid])
    return found.fetchone() is not None
