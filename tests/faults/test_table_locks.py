"""Locks on tables: what looks at streams neither waits for them nor leaves anything."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from tests.process import Process, eventually
from walex_django.replication.connection import NoAnswer, connect, parse_url

from .listener import ONE, RECONNECTED, delivered, listening, stop, with_stream
from .server import Server

# A rewriting ALTER TABLE holds such a lock.
_LOCK = "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE"


@contextmanager
def locked(server: Server, *tables: str) -> Iterator[None]:
    """Hold the strongest lock on these tables."""
    with server.connect() as session, session.transaction():
        for table in tables:
            session.execute(_LOCK.format(table).encode())
        yield


def blocked(server: Server) -> list[Any]:
    """Return the statements of the sessions that wait for a lock."""
    return server.execute(
        "SELECT application_name, query FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock'"
    )


def backends(server: Server) -> list[Any]:
    """Return the other client sessions."""
    return server.execute(
        "SELECT application_name, query FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


def test_status_does_not_wait_for_the_lock_of_a_published_table(
    server: Server, environment: dict[str, str]
) -> None:
    with locked(server, "zoo_keeper"):
        before = backends(server)
        for _ in range(2):
            with Process("walex_status", *ONE, "--json", env=environment) as status:
                assert status.wait() == 0, status.output
            (stream,) = json.loads(status.output)["streams"]
            assert stream["state"] == "stopped"
            assert [table["name"] for table in stream["tables"]] == [
                "public.zoo_keeper"
            ]
            found = {problem["id"] for problem in stream["problems"]}
            assert found <= {"I047", "W037", "I038"}
        eventually(lambda: backends(server) == before, "the end of the sessions")
        with Process("check", "--database=default", env=environment) as check:
            assert check.wait() == 0, check.output
        assert "W020" not in check.output
        with Process("walex_setup", *ONE, "--dry-run", env=environment) as setup:
            assert setup.wait() == 0, setup.output
        eventually(lambda: backends(server) == before, "the end of the sessions")


def test_status_answers_while_tables_of_walex_django_are_locked(
    server: Server, environment: dict[str, str]
) -> None:
    ours = ("walex_django_listenerreport", "walex_django_checkpoint")
    with locked(server, *ours):
        before = backends(server)
        with Process("walex_status", *ONE, "--json", env=environment) as status:
            assert status.wait() == 0, status.output
        (stream,) = json.loads(status.output)["streams"]
        assert stream["state"] == "stopped"
        assert "has locked a table" in stream["problems"][0]["message"]
        eventually(lambda: backends(server) == before, "the end of the sessions")


def test_server_ends_the_statements_of_a_killed_process(
    server: Server, environment: dict[str, str]
) -> None:
    with locked(server, "walex_django_listenerreport"):
        before = backends(server)
        with Process("walex_status", *ONE, env=environment) as status:
            eventually(lambda: len(blocked(server)) > 0, "a blocked status")
            status.signal(signal.SIGKILL)
            status.wait()
        eventually(lambda: backends(server) == before, "the end of the session")


def test_statement_that_is_given_up_is_cancelled(server: Server) -> None:
    with locked(server, "zoo_keeper"):
        before = backends(server)
        with (
            connect(parse_url(server.url()), timeout=1) as connection,
            pytest.raises(NoAnswer),
        ):
            connection.execute("SELECT FROM zoo_keeper")
        eventually(lambda: backends(server) == before, "the end of the session")


def test_statement_of_a_client_that_is_gone_ends(server: Server) -> None:
    connection = connect(parse_url(server.url()), timeout=1)
    pid = connection.info.backend_pid
    with locked(server, "zoo_keeper"):
        connection.pgconn.send_query(b"SELECT FROM zoo_keeper")
        connection.pgconn.flush()
        eventually(lambda: len(blocked(server)) == 1, "the lock")
        connection.pgconn.finish()
        eventually(
            lambda: (
                server.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid])
                == []
            ),
            "the end of the backend",
        )


def test_listener_starts_and_reconnects_while_a_table_is_locked(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    # Partitions are another way to wait: a function would lock each of them.
    server.execute(
        "CREATE TABLE zoo_locked (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE zoo_locked_1 PARTITION OF zoo_locked FOR VALUES FROM (0) TO (9);"
        "ALTER TABLE zoo_locked REPLICA IDENTITY FULL;"
        "ALTER TABLE zoo_locked_1 REPLICA IDENTITY FULL"
    )
    env = with_stream(environment, SUBSCRIPTIONS=["zoo.Keeper", "public.zoo_locked"])
    with Process("walex_setup", *ONE, env=env) as setup:
        assert setup.wait() == 0, setup.output
    server.execute("INSERT INTO zoo_locked VALUES (1)")

    with locked(server, "zoo_locked", "zoo_locked_1"), listening(env) as listener:
        server.write("first")
        eventually(lambda: delivered(journal)[-1:] == ["first"], "the event")

        server.execute("SELECT pg_terminate_backend(%s)", [server.walsender()])
        listener.wait_for(RECONNECTED)
        server.write("second")
        eventually(lambda: delivered(journal)[-1:] == ["second"], "the event")
        assert blocked(server) == []
        stop(listener)


def test_reporter_leaves_no_backend_behind_a_lock(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with (
        listening(environment) as listener,
        locked(server, "walex_django_listenerreport"),
    ):
        before = backends(server)
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0, listener.output
        eventually(
            lambda: len(backends(server)) < len(before), "the end of the sessions"
        )
        assert blocked(server) == []


@pytest.mark.parametrize("server", [{"max_connections": "20"}], indirect=True)
def test_watching_takes_no_connections_from_the_application(
    server: Server, environment: dict[str, str]
) -> None:
    barrier = Barrier(3)

    def watch() -> None:
        with Process("walex_status", *ONE, "--watch=0.1", env=environment) as status:
            status.wait_for("default")
            barrier.wait(60)
            barrier.wait(60)

    with locked(server, "zoo_keeper"):
        threads = [Thread(target=watch) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait(60)
        eventually(lambda: blocked(server) == [], "the end of the waits")
        with server.connect() as application:
            application.execute("SELECT FROM zoo_building")
        barrier.wait(60)
        for thread in threads:
            thread.join()
