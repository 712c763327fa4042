"""A fast shutdown of the server, which must not wait for a listener."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import (
    ONE,
    RECONNECTED,
    RETRYING,
    delivered,
    drain,
    listening,
    stop,
    with_stream,
)
from .server import Server

_SOON = 10  # seconds; pg_ctl itself would wait for 60


def restart(server: Server) -> None:
    """Stop the server as administrators do, and start it again."""
    start = time.monotonic()
    server.stop("fast")
    assert time.monotonic() - start < _SOON
    server.start()


@pytest.mark.parametrize("server", [{"wal_sender_timeout": "60s"}], indirect=True)
def test_the_server_does_not_wait_for_a_paused_stream(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    paused = with_stream(environment, PAUSED=True)
    with Process("walex_listen", *ONE, env=paused) as listener:
        listener.wait_for("is paused")
        server.write("meanwhile")
        restart(server)
        assert "the server is stopping" in listener.wait_for(RETRYING)
        listener.wait_for(RECONNECTED)
        assert delivered(journal) == []
        stop(listener)
    drain(environment)
    assert delivered(journal) == ["meanwhile"]


@pytest.mark.parametrize("server", [{"wal_sender_timeout": "60s"}], indirect=True)
@pytest.mark.parametrize("megabytes", [0, 30], ids=["alone", "with a backlog"])
def test_the_server_does_not_wait_for_a_receiver(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    tmp_path: Path,
    megabytes: int,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with listening(environment) as listener:
        server.write("before")
        eventually(lambda: delivered(journal) == ["before"])
        server.write(f"read {pipe}")
        for _ in range(megabytes):
            # More than fits into the buffers, so that the walsender waits to send it.
            server.execute(
                "SELECT pg_logical_emit_message(true, 'noise', repeat('x', 1000000))"
            )
        with pipe.open("w"):
            restart(server)
        assert "the server is stopping" in listener.wait_for(RETRYING)
        with pipe.open("w"):  # the transaction comes again
            pass
        server.write("after")
        eventually(lambda: delivered(journal)[-1] == "after")
        stop(listener)
    read = f"read {pipe}"
    # PostgreSQL 15 forgets acknowledgements even when it stops in order.
    assert list(dict.fromkeys(delivered(journal))) == ["before", read, "after"]
    assert delivered(journal).count(read) == 2
    assert listener.output.count(RETRYING) == 1


def test_the_server_does_not_wait_for_a_standby_listener(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with (
        listening(environment) as first,
        Process("walex_listen", *ONE, env=environment) as second,
    ):
        second.wait_for("Waiting to take over.")
        restart(server)
        eventually(lambda: server.walsender() is not None, "the reconnection")
        server.write("after")
        eventually(lambda: delivered(journal) == ["after"])
        stop(second)
        stop(first)


def test_the_server_does_not_wait_for_a_slot_that_is_being_created(
    server: Server, environment: dict[str, str]
) -> None:
    temporary = with_stream(environment, DURABLE_SLOT=False, SLOT_NAME="fleeting")
    durable = with_stream(environment, SLOT_NAME="lasting")
    with server.connect() as connection:
        # It survives the shutdown, and a new slot waits for it.
        connection.execute("BEGIN")
        connection.execute("INSERT INTO zoo_mark VALUES ('prepared')")
        connection.execute("PREPARE TRANSACTION 'zoo'")
    with (
        Process("walex_listen", *ONE, env=temporary) as listener,
        Process("walex_setup", *ONE, env=durable) as setup,
    ):
        eventually(lambda: _waiting(server) == 2, "the waiting for the transaction")
        restart(server)
        listener.wait_for(RETRYING)
        assert setup.wait() == 1
        assert "Traceback" not in setup.output
        server.execute("ROLLBACK PREPARED 'zoo'")
        listener.wait_for("Quit with")
        stop(listener)


def _waiting(server: Server) -> int:
    ((count,),) = server.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    )
    return int(count)
