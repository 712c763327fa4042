"""Timeouts of PostgreSQL that are set on the role do not end a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.process import Process, eventually

from .listener import ONE, delivered, listening, stop, with_stream
from .server import Server

_TIMEOUTS = (
    *("statement_timeout", "lock_timeout", "idle_session_timeout"),
    *("idle_in_transaction_session_timeout", "client_connection_check_interval"),
    *("tcp_user_timeout", "transaction_timeout"),
)


@pytest.fixture
def timeouts(server: Server) -> Iterator[None]:
    """One second each, for the role of the listener and its sessions from now on."""
    for name in _TIMEOUTS:
        if name != "transaction_timeout" or _version(server) >= 17:
            server.execute(f"ALTER ROLE postgres SET {name} = '1s'")
    yield
    server.execute("ALTER ROLE postgres RESET ALL")


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("atomic", [False, True])
def test_no_timeout_ends_an_idle_stream(
    server: Server, environment: dict[str, str], journal: Path, atomic: bool
) -> None:
    with listening(with_stream(environment, ATOMIC=atomic)) as listener:
        walsender = server.walsender()
        for name in ("first", "second", "third"):
            _outlast(server)
            server.write(name)
            eventually(lambda name=name: delivered(journal)[-1:] == [name])  # type: ignore[misc]
        assert server.walsender() == walsender
        stop(listener)
    assert delivered(journal) == ["first", "second", "third"]
    assert len(listener.lines) == 5, listener.output


@pytest.mark.usefixtures("timeouts")
def test_no_timeout_ends_a_busy_stream(
    server: Server, environment: dict[str, str], journal: Path, tmp_path: Path
) -> None:
    """A transaction is sent for as long as the receiver of its first row works."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    names = [f"read {pipe}", "second", "last"]
    with listening(with_stream(environment, MAX_BATCH=1)) as listener:
        walsender = server.walsender()
        with _unlimited(server) as sql, sql.transaction():
            insert = "INSERT INTO zoo_keeper (name) VALUES (%s)"
            # A batch is delivered when the row after it has arrived.
            sql.execute(insert, [names[0]])
            sql.execute(insert, [names[1]])
            # More than fits into the buffers.
            sql.execute(
                "SELECT pg_logical_emit_message(true, 'noise', repeat('x', 1000000))"
                " FROM generate_series(1, 30)"
            )
            sql.execute(insert, [names[2]])
        _wait_until_sending(server)
        _outlast(server)
        with pipe.open("w"):
            pass
        eventually(lambda: delivered(journal)[-1:] == ["last"])
        position = server.position()
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        assert server.walsender() == walsender
        stop(listener)
    assert delivered(journal) == names
    assert len(listener.lines) == 5, listener.output


@pytest.mark.usefixtures("timeouts")
def test_no_timeout_ends_the_wait_for_a_slot(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    temporary = with_stream(environment, DURABLE_SLOT=False, SLOT_NAME="fleeting")
    durable = with_stream(environment, SLOT_NAME="lasting")
    with (
        listening(environment) as first,
        Process("walex_listen", *ONE, env=environment) as second,
    ):
        second.wait_for("Waiting to take over.")
        with _unlimited(server) as other:
            # A new slot waits for it.
            other.execute("BEGIN")
            other.execute("INSERT INTO zoo_mark VALUES ('open')")
            with (
                Process("walex_listen", *ONE, env=temporary) as waiting,
                Process("walex_setup", *ONE, env=durable) as setup,
            ):
                eventually(lambda: _waits(server) == 2, "the wait for the transaction")
                _outlast(server)
                assert _waits(server) == 2
                other.execute("COMMIT")
                waiting.wait_for("Quit with")
                assert setup.wait() == 0, setup.output
                stop(waiting)
        stop(first)
        second.wait_for("Quit with")
        server.write("after")
        eventually(lambda: delivered(journal)[-1:] == ["after"])
        stop(second)
    assert second.output.count("Stream default") == 1, second.output


def _unlimited(server: Server) -> psycopg.Connection[Any]:
    """Return a session without timeouts."""
    connection = server.connect()
    for name in _TIMEOUTS:
        if name != "transaction_timeout" or _version(server) >= 17:
            connection.execute(f"SET {name} = 0".encode())
    return connection


def _outlast(server: Server) -> None:
    """Return once all timeouts would have passed."""
    with _unlimited(server) as connection:
        connection.execute("SELECT pg_sleep(1.3)")


def _version(server: Server) -> int:
    ((number,),) = server.execute("SELECT current_setting('server_version_num')::int")
    return int(number) // 10_000


def _waits(server: Server) -> int:
    ((count,),) = server.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    )
    return int(count)


def _wait_until_sending(server: Server) -> None:
    eventually(
        lambda: bool(
            server.execute(
                "SELECT FROM pg_stat_activity WHERE backend_type = 'walsender'"
                " AND wait_event = 'WalSenderWriteData'"
            )
        ),
        "the wait for the listener to read on",
    )
