"""Sessions of the server die under a listener that lives."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import eventually, read_journal

from .listener import AGAIN, BACK, heard, ids, listening, stop, with_stream
from .server import Server, lsn


def _terminate(pid: int, server: Server) -> None:
    server.execute("SELECT pg_terminate_backend(%s)", [pid])


def _kill(pid: int, server: Server) -> None:
    """Crash: the server ends all sessions and recovers."""
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "atomic"),
    [(_terminate, False), (_kill, False), (_kill, True)],
    ids=["terminated", "crash", "crash, atomic"],
)
def test_what_was_acknowledged_does_not_come_again(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    end: Callable[[int, Server], None],
    atomic: bool,
) -> None:
    """Case 3: the walsender dies after an acknowledged event."""
    with listening(with_stream(environment, ATOMIC=atomic)) as listener:
        server.write("before")
        position = server.position()
        eventually(lambda: heard(journal) == ["before"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        walsender = server.walsender()
        assert walsender
        end(walsender, server)
        listener.wait_for(AGAIN)
        listener.wait_for(BACK)
        server.write("after")
        eventually(lambda: heard(journal)[-1] == "after", "what came after")
        stop(listener)

    # A server that has crashed may have forgotten it, and only `ATOMIC` has not.
    once = list(dict.fromkeys(heard(journal)))
    assert once == ["before", "after"]
    assert len(set(ids(journal))) == 2
    assert heard(journal) == once or (end is _kill and not atomic)
    assert listener.output.count(AGAIN) == 1


def test_what_a_receiver_works_on_comes_again(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 4: the walsender dies while a receiver is running."""
    with listening(environment) as listener:
        with server.held(1):
            server.write("wait for 1")
            eventually(server.waits_for_lock, "the receiver's work")
            server.hear(2)
            walsender = server.walsender()
            assert walsender
            _terminate(walsender, server)
            eventually(lambda: server.walsender() is None, "the end of the walsender")
            confirmed = server.confirmed()
        eventually(lambda: len(heard(journal)) == 2, "the repetition")
        server.write("next")
        eventually(lambda: heard(journal)[-1:] == ["next"], "what came after")
        stop(listener)

    first, again, other = read_journal(journal)
    assert first["id"] == again["id"] != other["id"]
    assert confirmed < lsn(first["lsn"]) < server.confirmed()


def test_a_receiver_whose_session_dies_is_called_again(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 4: the session in which the receiver itself works."""
    with listening(environment) as listener:
        with server.held(1):
            server.write("before", "wait for 1", "after")
            eventually(server.waits_for_lock, "the receiver's work")
            walsender = server.walsender()
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND NOT granted"
            )
            assert "retrying in" in listener.wait_for("obey failed at")
        eventually(lambda: heard(journal)[-1:] == ["after"], "the rest")
        assert server.walsender() == walsender
        stop(listener)

    assert heard(journal) == ["before", "wait for 1", "after"]
    assert server.execute("SELECT event_id FROM walex_django_parkedevent") == []
