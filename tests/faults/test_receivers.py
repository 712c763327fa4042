"""Receivers that always fail, and slow receivers."""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import ONE, RETRYING, delivered, listening, stop, with_stream
from .server import Server

_PARKED = "SELECT event_id, attempts FROM walex_django_parkedevent"


def test_row_that_always_fails_is_parked_and_blocks_nothing(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The call is parked after the last retry and replayed after the fix."""
    env = with_stream(environment, MAX_RETRIES=2)
    with listening(env) as listener:
        server.write("before", "raise", "after")
        server.write("next transaction")
        position = server.position()
        eventually(lambda: delivered(journal)[-1:] == ["next transaction"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0

    # The journal's other receiver got the failing row as well, in order.
    assert delivered(journal) == ["before", "raise", "after", "next transaction"]
    ((event_id, attempts),) = server.execute(_PARKED)
    assert (event_id.rpartition(":")[2], attempts) == ("2", 3)

    with Process("walex_replay", *ONE, env=env) as replay:
        assert replay.wait() == 1, "the receiver is not fixed yet"
    assert server.execute(_PARKED) == [(event_id, 4)]
    with Process("walex_replay", *ONE, env={**env, "ZOO_MENDED": "1"}) as replay:
        assert replay.wait() == 0, replay.output
    assert replay.lines[-1] == "1 delivered, 0 failed again"
    assert server.execute(_PARKED) == []


@pytest.mark.parametrize("server", [{"wal_sender_timeout": "2s"}], indirect=True)
def test_slow_receiver_does_not_lose_the_connection(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The receiver takes twice as long as ``wal_sender_timeout``."""
    with listening(with_stream(environment, STATUS_INTERVAL=10)) as listener:
        walsender = server.walsender()
        with server.blocking_receivers(1):
            server.write("wait for 1", "after")
            eventually(server.has_blocked_receiver, "the blocked receiver")
            began = server.last_reply()
            assert began
            late = began + timedelta(seconds=4)
            eventually(lambda: (server.last_reply() or began) > late, "a late reply")
        eventually(lambda: delivered(journal) == ["wait for 1", "after"])
        assert server.walsender() == walsender
        stop(listener)
    assert delivered(journal) == ["wait for 1", "after"]
    assert RETRYING not in listener.output
