"""Receivers that fail for good, and receivers that take their time."""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import AGAIN, ONE, heard, listening, stop, with_stream
from .server import Server

_PARKED = "SELECT event_id, attempts FROM walex_django_parkedevent"


def test_one_row_that_always_fails_keeps_nothing_else(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 5: it is parked after the last retry, and replayed after the mend."""
    env = with_stream(environment, MAX_RETRIES=2)
    with listening(env) as listener:
        server.write("before", "raise", "after")
        server.write("next transaction")
        position = server.position()
        eventually(lambda: heard(journal)[-1:] == ["next transaction"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0

    # The journal's other receiver heard of the bad row too, in its turn.
    assert heard(journal) == ["before", "raise", "after", "next transaction"]
    ((event_id, attempts),) = server.execute(_PARKED)
    assert (event_id.rpartition(":")[2], attempts) == ("2", 3)

    with Process("walex_replay", *ONE, env=env) as replay:
        assert replay.wait() == 1, "it is not mended yet"
    assert server.execute(_PARKED) == [(event_id, 4)]
    with Process("walex_replay", *ONE, env={**env, "ZOO_MENDED": "1"}) as replay:
        assert replay.wait() == 0, replay.output
    assert replay.lines[-1] == "1 delivered, 0 failed again"
    assert server.execute(_PARKED) == []


@pytest.mark.parametrize("server", [{"wal_sender_timeout": "2s"}], indirect=True)
def test_a_slow_receiver_keeps_its_connection(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 12: it takes twice ``wal_sender_timeout``."""
    with listening(with_stream(environment, STATUS_INTERVAL=10)) as listener:
        walsender = server.walsender()
        with server.held(1):
            server.write("wait for 1", "after")
            eventually(server.waits_for_lock, "the receiver's work")
            began = server.last_reply()
            assert began
            late = began + timedelta(seconds=4)
            eventually(lambda: (server.last_reply() or began) > late, "a late sign")
        eventually(lambda: heard(journal) == ["wait for 1", "after"])
        assert server.walsender() == walsender
        stop(listener)
    assert heard(journal) == ["wait for 1", "after"]
    assert AGAIN not in listener.output
