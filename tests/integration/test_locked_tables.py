"""Locks that other transactions hold on the tables of walex_django."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction

from tests.listening import Connect, Listening
from tests.process import Process, eventually
from tests.zoo.models import Animal, Keeper
from walex_django.conf.configs import get_config
from walex_django.conf.own_tables import own_transaction
from walex_django.conf.stream import StreamConfig
from walex_django.models import Checkpoint, ListenerReport, ParkedEvent
from walex_django.monitoring import health, inspection, timed_inspection
from walex_django.monitoring.status import StreamState
from walex_django.signals import post_db_insert

from .stream import Stream
from .test_mistakes import ONE
from .test_reports import known_to_run, reported

pytestmark = pytest.mark.django_db(transaction=True)

ROW = "SELECT FROM walex_django_checkpoint FOR UPDATE"
TIMEOUTS = (
    "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
)
CHECKPOINTS = "LOCK TABLE walex_django_checkpoint IN ACCESS EXCLUSIVE MODE"


@contextmanager
def locked(url: str, statement: str) -> Iterator[int]:
    """Hold a lock in an open transaction named psql; yield its process ID."""
    with psycopg.connect(url, application_name="psql") as sql:
        sql.execute(statement.encode())
        yield sql.info.backend_pid


def url(sql: psycopg.Connection[Any]) -> str:
    return psycopg.conninfo.make_conninfo(sql.info.dsn, password=sql.info.password)


def no_backend_waits(sql: psycopg.Connection[Any]) -> bool:
    return not sql.execute("SELECT pid FROM pg_locks WHERE NOT granted").fetchall()


@pytest.mark.parametrize("statement", [ROW, CHECKPOINTS], ids=["row", "table"])
def test_listener_names_the_blocker_of_its_checkpoint_and_stops_when_asked(
    stream: Stream, statement: str
) -> None:
    stream.deliver("Ada")
    with (
        locked(stream.env["ZOO_DATABASE_URL"], statement) as pid,
        Process("walex_listen", *ONE, env=stream.env) as listener,
    ):
        line = listener.wait_for("has locked")
        eventually(
            lambda: ListenerReport.objects.filter(state="retrying").exists(), "a report"
        )
        (status,) = timed_inspection.inspect_all(
            [get_config("default")], diagnose=False
        ).streams
        asked = time.monotonic()
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
        took = time.monotonic() - asked

    what = "a row of walex_django_checkpoint" if statement == ROW else "a table of"
    assert f"Another transaction has locked {what}" in line
    assert f'process {pid} ("psql", database ' in line
    assert "idle in transaction, transaction open for " in line
    assert f"SELECT pg_terminate_backend({pid});" in line
    assert status.state == StreamState.RETRYING
    assert f"process {pid}" in status.reason
    assert health.failures(status) == ["state is retrying"]
    assert took < 20
    assert len(listener.lines) == 1, listener.output


def test_listener_resumes_after_the_lock_is_released(stream: Stream) -> None:
    stream.deliver("Ada")
    with Process("walex_listen", *ONE, env=stream.env) as listener:
        with locked(stream.env["ZOO_DATABASE_URL"], ROW):
            listener.wait_for("has locked")
            stream.write("Bob")
        listener.wait_for("Quit with")
        eventually(lambda: stream.delivered()[-1] == "Bob", "Bob")


def test_reader_that_has_not_reported_is_not_shown_as_running(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    with Listening(durable):
        Checkpoint.objects.get()
    with locked(url(sql), ROW), _stuck(durable):
        eventually(
            lambda: (
                timed_inspection.inspect_all([durable], diagnose=False).streams[0].state
                == StreamState.STARTING
            ),
            "a walsender",
        )
        (status,) = timed_inspection.inspect_all([durable], diagnose=False).streams
    assert health.failures(status) == ["state is starting"]


@contextmanager
def _stuck(config: StreamConfig) -> Iterator[None]:
    """Run a listener that has the slot and is waiting for its checkpoint."""
    listening = Listening(config)
    listening._thread.start()
    try:
        yield
    finally:
        listening._listener.stop()
        listening._thread.join(60)
        assert not listening._thread.is_alive()


def test_atomic_transaction_is_retried_if_its_checkpoint_was_locked(
    atomic: StreamConfig, sql: psycopg.Connection[Any], connect: Connect
) -> None:
    def work(event: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            found.append(cursor.fetchone())
        Animal.objects.create(name=event.id)

    found: list[Any] = []
    connect(post_db_insert, work, Keeper)
    with reported(atomic) as listening:
        with locked(url(sql), ROW):
            Keeper.objects.create(name="Ada")
            eventually(lambda: "has locked" in listening.report.reason, "a report")
            assert not Animal.objects.exists()
        eventually(Animal.objects.exists, "the effect")
    assert Animal.objects.count() == 1
    assert len(found) > 1
    # The receivers' own statements keep the application's timeout.
    assert {*found} == {("0",)}


def test_receivers_keep_their_timeouts_after_a_call_was_parked(
    atomic: StreamConfig, connect: Connect
) -> None:
    found: list[Any] = []

    def fail(**kwargs: Any) -> None:
        raise ValueError

    def work(**kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(TIMEOUTS)
            found.append(cursor.fetchone())

    connect(post_db_insert, fail, Keeper)
    connect(post_db_insert, work, Keeper)
    with Listening(replace(atomic, max_retries=0)) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        eventually(ParkedEvent.objects.exists, "a parked call")
    assert found == [("0", "0")]


def test_status_leaves_no_backend_behind_locked_reports(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    lock = "LOCK TABLE walex_django_listenerreport IN ACCESS EXCLUSIVE MODE"
    with Listening(durable), locked(url(sql), lock) as pid:
        (status,) = timed_inspection.inspect_all([durable]).streams
        assert no_backend_waits(sql)
        with pytest.raises(SystemExit):
            call_command("walex_status", "--check", "--stream=default")
    assert status.state == StreamState.UNREACHABLE
    assert f'process {pid} ("psql"' in status.reason


def test_reader_is_not_shown_as_running_while_its_report_is_locked(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    lock = "LOCK TABLE walex_django_listenerreport IN ACCESS EXCLUSIVE MODE"
    with known_to_run(durable), locked(url(sql), lock):
        (status,) = timed_inspection.inspect_all([durable], diagnose=False).streams
    assert status.state == StreamState.UNREACHABLE
    assert health.failures(status)


def test_locked_tables_are_queried_for_the_first_stream_only(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    lock = "LOCK TABLE walex_django_listenerreport IN ACCESS EXCLUSIVE MODE"
    streams = [durable] * 5
    with locked(url(sql), lock):
        started = time.monotonic()
        overview = inspection.inspect_all(streams, diagnose=False)
        took = time.monotonic() - started
    assert all(stream.records.locked for stream in overview.streams)
    # Five waits would take 7.5 s.
    assert took < 5


def test_own_transaction_keeps_shorter_timeouts_and_restores_them() -> None:
    def timeouts() -> Any:
        with connection.cursor() as cursor:
            cursor.execute(TIMEOUTS)
            return cursor.fetchone()

    with transaction.atomic(), connection.cursor() as cursor:
        with own_transaction("default"):
            assert timeouts() == ("3s", "5s")
        assert timeouts() == ("0", "0")
        cursor.execute("SET LOCAL lock_timeout = 40")
        cursor.execute("SET LOCAL statement_timeout = '1h'")
        with own_transaction("default", seconds=2):
            assert timeouts() == ("40ms", "2s")
        assert timeouts() == ("40ms", "1h")
        with pytest.raises(ValueError), own_transaction("default"):  # noqa: PT011
            raise ValueError
        assert timeouts() == ("40ms", "1h")
    with own_transaction("default"):
        assert timeouts() == ("3s", "5s")
    assert timeouts() == ("0", "0")


def test_own_transaction_commits_locally_unless_it_is_part_of_another() -> None:
    def setting() -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            return cursor.fetchone()[0]

    with own_transaction("default"):
        assert setting() in {"local", "off"}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = remote_apply")
        with own_transaction("default"):
            assert setting() == "remote_apply"
