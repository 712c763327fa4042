"""A listener that is suspended, replaced, and resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import ONE, RETRYING, delivered, listening, stop, with_stream
from .server import Server

pytestmark = pytest.mark.parametrize(
    "server", [{"wal_sender_timeout": "1s"}], indirect=True, ids=["1s"]
)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_resumed_listener_delivers_nothing_after_its_current_transaction(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    tmp_path: Path,
    busy: bool,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first = f"read {pipe}" if busy else "first"
    # The server sends nothing more once it has ended the connection, so what the
    # suspended listener has in its buffers has to be there before.
    old = [str(number) for number in range(300)]
    with (
        listening(environment) as frozen,
        Process("walex_listen", *ONE, env=environment) as other,
    ):
        other.wait_for("Waiting to take over.")
        if busy:
            server.write(first)
            position = server.position()
            eventually(lambda: server.sent() >= position, "the sending")
        frozen.signal(signal.SIGSTOP)
        if not busy:
            server.write(first)
        with server.connect() as connection:
            for name in old:
                connection.execute("INSERT INTO zoo_keeper (name) VALUES (%s)", [name])
        other.wait_for("Quit with")
        if busy:
            with pipe.open("w"):
                pass
        server.write("new")
        eventually(lambda: delivered(journal)[-1:] == ["new"], "the takeover")
        assert delivered(journal) == [first, *old, "new"]

        frozen.signal(signal.SIGCONT)
        if busy:
            with pipe.open("w"):
                pass
        frozen.wait_for(RETRYING)
        frozen.wait_for("Waiting to take over.")
        again = [first] if busy else []
        assert delivered(journal) == [first, *old, "new", *again]
        stop(frozen)
        stop(other)


def test_a_resumed_listener_continues_when_nothing_replaced_it(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with listening(with_stream(environment, ATOMIC=True)) as listener:
        server.write("before")
        eventually(lambda: delivered(journal) == ["before"])
        listener.signal(signal.SIGSTOP)
        eventually(lambda: server.walsender() is None, "the end of the connection")
        server.write("meanwhile")
        listener.signal(signal.SIGCONT)
        listener.wait_for(RETRYING)
        eventually(lambda: delivered(journal) == ["before", "meanwhile"])
        stop(listener)
