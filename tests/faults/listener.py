"""Listener processes: starting and stopping them, and what they delivered."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from example_project.postgres import Postgres
from tests.process import Process, eventually, read_journal

ONE = ("--stream", "default")
RETRYING = "Retrying until it succeeds."  # logged when the connection is lost
RECONNECTED = "Stream default reconnected"


def environment_on(server: Postgres) -> dict[str, str]:
    """Return the environment of a process whose stream is on that server."""
    stream = {
        "SUBSCRIPTIONS": ["zoo.Keeper"],
        "RETRY_BACKOFF": 0.05,
        # Short, so that a kill loses whatever is acknowledged too early.
        "STATUS_INTERVAL": 0.05,
    }
    return {
        "ZOO_DATABASE_URL": server.url(),
        "ZOO_SECOND_URL": server.url(),
        "ZOO_STREAM": json.dumps(stream),
    }


def with_stream(env: Mapping[str, str], **settings: object) -> dict[str, str]:
    """Return the environment with more settings of the stream."""
    stream = {**json.loads(env["ZOO_STREAM"]), **settings}
    return {**env, "ZOO_STREAM": json.dumps(stream)}


@contextmanager
def listening(env: dict[str, str], *options: str) -> Iterator[Process]:
    """Run a listener process; enter once it streams and has reported so."""
    with Process("walex_listen", *ONE, *options, env=env) as listener:
        listener.wait_for("Quit with")
        # From here on, only the test writes WAL.
        eventually(lambda: _has_reported(listener, env), "the listener's report")
        yield listener


def _has_reported(listener: Process, env: Mapping[str, str]) -> bool:
    with psycopg.connect(env["ZOO_DATABASE_URL"]) as sql:
        found = sql.execute(
            "SELECT FROM walex_django_listenerreport"
            " WHERE process = %s AND state = 'running'",
            [listener.pid],
        )
        return bool(found.rowcount)


def stop(listener: Process) -> None:
    """Stop a listener by SIGTERM."""
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0, listener.output
    assert "Traceback" not in listener.output


def is_ending(listener: Process) -> bool:
    """Return whether the listener has received SIGTERM and is finishing its work."""
    # After the first SIGTERM it no longer catches another. Source: proc(5).
    status = Path(f"/proc/{listener.pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return not int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1


def kill(listener: Process) -> None:
    """Kill a listener by SIGKILL."""
    listener.signal(signal.SIGKILL)
    assert listener.wait() == -signal.SIGKILL, listener.output


def drain(env: dict[str, str]) -> None:
    """Deliver the slot's backlog with a listener."""
    with Process("walex_listen", *ONE, "--drain", env=env) as listener:
        assert listener.wait() == 0, listener.output


def delivered(journal: Path) -> list[str]:
    """Return the names in the events that listeners delivered."""
    return [line["label"] for line in read_journal(journal)]


def ids(journal: Path) -> list[str]:
    """Return the ids of the events that listeners delivered."""
    return [line["id"] for line in read_journal(journal)]
