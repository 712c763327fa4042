"""A stream that loses its connection is resumed, and nothing is lost."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from example_project.postgres import Postgres
from tests.process import Process, eventually, read_journal

pytestmark = pytest.mark.django_db(transaction=True)

ONE = ("--stream", "default")


@pytest.fixture
def server(programs: Path | None) -> Iterator[Postgres]:
    """A server that the test may kill."""
    with Postgres(bin=programs, settings={"wal_sender_timeout": "3s"}) as server:
        yield server


@pytest.fixture
def env(server: Postgres, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process on that server, where the stream is set up."""
    url = server.url()
    env = {**environment, "ZOO_DATABASE_URL": url, "ZOO_SECOND_URL": url}
    for command in (["migrate", "--verbosity=0"], ["walex_setup", *ONE]):
        with Process(*command, env=env) as process:
            assert process.wait() == 0, process.output
    return env


def write(server: Postgres, *names: str) -> None:
    """Commit a keeper of each name."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for name in names:
            connection.execute("INSERT INTO zoo_keeper (name) VALUES (%s)", [name])


def delivered(journal: Path) -> list[str]:
    """Return the names that the listener delivered."""
    return [line["label"] for line in read_journal(journal)]


def _terminate_walsender(server: Postgres) -> None:
    with psycopg.connect(server.url()) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")


def _restart(mode: str) -> Callable[[Postgres], None]:
    def restart(server: Postgres) -> None:
        server.stop(mode)
        server.start()

    return restart


@pytest.mark.parametrize(
    ("interrupt", "saves_slot_since"),
    [
        (_terminate_walsender, 150000),
        # Older servers save a slot at shutdown only if it retains less WAL.
        (_restart("fast"), 170000),
        (_restart("immediate"), math.inf),
    ],
    ids=["walsender terminated", "server restarted", "server killed"],
)
def test_stream_resumes(
    server: Postgres,
    env: dict[str, str],
    journal: Path,
    interrupt: Callable[[Postgres], None],
    saves_slot_since: float,
) -> None:
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("Quit with")
        write(server, "before")
        eventually(lambda: delivered(journal) == ["before"])
        eventually(lambda: _confirmed(server), "the acknowledgement")
        interrupt(server)
        write(server, "after", "last")
        eventually(lambda: delivered(journal)[-1:] == ["last"], "the rest")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0

    # Acknowledged changes are redelivered only if the server lost track of them.
    once = list(dict.fromkeys(delivered(journal)))
    assert once == ["before", "after", "last"]
    assert delivered(journal) == once or _version(server) < saves_slot_since
    assert listener.output.count("Retrying until it succeeds.") == 1
    assert listener.output.count("Stream default reconnected") == 1
    assert "Traceback" not in listener.output


def test_listener_reconnects_when_the_server_stops_responding(
    server: Postgres, env: dict[str, str], journal: Path
) -> None:
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("Quit with")
        with psycopg.connect(server.url()) as connection:
            ((walsender,),) = connection.execute("SELECT pid FROM pg_stat_replication")
        # As with a connection cut by the network: neither data nor an end arrives.
        os.kill(walsender, signal.SIGSTOP)
        try:
            write(server, "unheard")
            assert "no answer for" in listener.wait_for("Retrying until it succeeds.")
        finally:
            os.kill(walsender, signal.SIGCONT)
        eventually(lambda: delivered(journal) == ["unheard"])
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0


def test_stop_does_not_wait_for_the_server(
    server: Postgres, env: dict[str, str]
) -> None:
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("Quit with")
        server.stop()
        listener.wait_for("Retrying until it succeeds.")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0


def test_permanent_error_ends_the_stream(server: Postgres, env: dict[str, str]) -> None:
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("Quit with")
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("ALTER ROLE postgres PASSWORD 'another'")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
            )
        assert listener.wait() == 1
    assert "password authentication failed" in listener.lines[-1]


def test_nothing_is_lost_under_load(
    server: Postgres, env: dict[str, str], journal: Path
) -> None:
    """Three writers write while the server is killed twice."""
    committed: list[list[str]] = [[], [], []]
    ended = Event()

    def writer(number: int) -> None:
        names = (f"{number}-{n}" for n in range(10**9))
        while not ended.is_set():
            try:
                with psycopg.connect(server.url(), autocommit=True) as connection:
                    while not ended.is_set():
                        name = next(names)
                        connection.execute(
                            "INSERT INTO zoo_keeper (name) VALUES (%s)", [name]
                        )
                        committed[number].append(name)
            except psycopg.OperationalError:
                continue  # it is unknown whether this one was committed

    writers = [Thread(target=writer, args=[number]) for number in range(3)]
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("Quit with")
        for thread in writers:
            thread.start()
        for target in (300, 600):
            eventually(lambda target=target: len(delivered(journal)) > target)  # type: ignore[misc]
            server.stop("immediate")
            server.start()
        eventually(lambda: len(delivered(journal)) > 900)
        ended.set()
        for thread in writers:
            thread.join()
        names = set().union(*committed)
        eventually(lambda: names <= set(delivered(journal)), "the rest")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0

    # A redelivered event has the same id, and each writer's order is preserved.
    first = {line["id"]: line["label"] for line in reversed(read_journal(journal))}
    labels = list(dict.fromkeys(delivered(journal)))
    assert len(set(first.values())) == len(first)
    for number, own in enumerate(committed):
        in_order = [name for name in labels if name.startswith(f"{number}-")]
        assert [name for name in in_order if name in set(own)] == own


def _version(server: Postgres) -> int:
    with psycopg.connect(server.url()) as connection:
        return connection.info.server_version


def _confirmed(server: Postgres) -> bool:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(
            "SELECT FROM pg_replication_slots WHERE slot_name = 'zoo_walex'"
            " AND confirmed_flush_lsn >= pg_current_wal_flush_lsn()"
        ).fetchone()
    return row is not None
