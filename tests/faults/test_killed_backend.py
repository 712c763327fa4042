"""Server processes die while the listener keeps running."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import eventually, read_journal

from .listener import (
    RECONNECTED,
    RETRYING,
    delivered,
    ids,
    listening,
    stop,
    with_stream,
)
from .server import Server, lsn


def _terminate(pid: int, server: Server) -> None:
    server.execute("SELECT pg_terminate_backend(%s)", [pid])


def _kill(pid: int, server: Server) -> None:
    """Crash the server, which ends all sessions and recovers."""
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "atomic"),
    [(_terminate, False), (_kill, False), (_kill, True)],
    ids=["terminated", "crash", "crash, atomic"],
)
def test_acknowledged_event_is_not_redelivered_when_the_walsender_dies(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    end: Callable[[int, Server], None],
    atomic: bool,
) -> None:
    """The walsender dies after an acknowledged event."""
    with listening(with_stream(environment, ATOMIC=atomic)) as listener:
        server.write("before")
        position = server.position()
        eventually(lambda: delivered(journal) == ["before"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        walsender = server.walsender()
        assert walsender
        end(walsender, server)
        listener.wait_for(RETRYING)
        listener.wait_for(RECONNECTED)
        server.write("after")
        eventually(lambda: delivered(journal)[-1] == "after", "the later event")
        stop(listener)

    # A crash may lose the acknowledgement; only `ATOMIC` rules out a repetition.
    once = list(dict.fromkeys(delivered(journal)))
    assert once == ["before", "after"]
    assert len(set(ids(journal))) == 2
    assert delivered(journal) == once or (end is _kill and not atomic)
    assert listener.output.count(RETRYING) == 1


def test_event_in_progress_is_redelivered_when_the_walsender_dies(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The walsender dies while a receiver is running."""
    with listening(environment) as listener:
        with server.blocking_receivers(1):
            server.write("wait for 1")
            eventually(server.has_blocked_receiver, "the blocked receiver")
            server.wait_for_replies(2)
            walsender = server.walsender()
            assert walsender
            _terminate(walsender, server)
            eventually(lambda: server.walsender() is None, "the end of the walsender")
            confirmed = server.confirmed()
        eventually(lambda: len(delivered(journal)) == 2, "the repetition")
        server.write("next")
        eventually(lambda: delivered(journal)[-1:] == ["next"], "the later event")
        stop(listener)

    first, again, other = read_journal(journal)
    assert first["id"] == again["id"] != other["id"]
    assert confirmed < lsn(first["lsn"]) < server.confirmed()


def test_receiver_is_retried_when_its_session_dies(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The receiver's own session dies."""
    with listening(environment) as listener:
        with server.blocking_receivers(1):
            server.write("before", "wait for 1", "after")
            eventually(server.has_blocked_receiver, "the blocked receiver")
            walsender = server.walsender()
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND NOT granted"
            )
            assert "retrying in" in listener.wait_for("obey failed at")
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the rest")
        assert server.walsender() == walsender
        stop(listener)

    assert delivered(journal) == ["before", "wait for 1", "after"]
    assert server.execute("SELECT event_id FROM walex_django_parkedevent") == []
