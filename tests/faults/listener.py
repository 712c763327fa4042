"""Listener processes: where they listen, how they end, what they heard."""

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
AGAIN = "Retrying until it succeeds."  # logged when a connection is lost
BACK = "Stream default reconnected"


def environment_on(server: Postgres) -> dict[str, str]:
    """Return the environment of a process with the stream on that server."""
    stream = {
        "SUBSCRIPTIONS": ["zoo.Keeper"],
        "RETRY_BACKOFF": 0.05,
        # Acknowledged often: what is acknowledged too early is lost by a kill then.
        "STATUS_INTERVAL": 0.05,
    }
    return {
        "ZOO_DATABASE_URL": server.url(),
        "ZOO_SECOND_URL": server.url(),
        "ZOO_STREAM": json.dumps(stream),
    }


def with_stream(env: Mapping[str, str], **settings: object) -> dict[str, str]:
    """Return an environment with more settings of the stream."""
    stream = {**json.loads(env["ZOO_STREAM"]), **settings}
    return {**env, "ZOO_STREAM": json.dumps(stream)}


@contextmanager
def listening(env: dict[str, str], *options: str) -> Iterator[Process]:
    """Run a listener process, from when it streams and has said so."""
    with Process("walex_listen", *ONE, *options, env=env) as listener:
        listener.wait_for("Quit with")
        # What is written to the log from now on, the test has written.
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
    """End a listener in order."""
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0, listener.output
    assert "Traceback" not in listener.output


def is_ending(listener: Process) -> bool:
    """Return whether it has obeyed a SIGTERM and goes on to the end of its work."""
    # It no longer catches a second one. Source: proc(5).
    status = Path(f"/proc/{listener.pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return not int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1


def kill(listener: Process) -> None:
    """End a listener by kill -9."""
    listener.signal(signal.SIGKILL)
    assert listener.wait() == -signal.SIGKILL, listener.output


def drain(env: dict[str, str]) -> None:
    """Let a listener deliver what waits in the slot."""
    with Process("walex_listen", *ONE, "--drain", env=env) as listener:
        assert listener.wait() == 0, listener.output


def heard(journal: Path) -> list[str]:
    """Return the names that listeners heard of."""
    return [line["label"] for line in read_journal(journal)]


def ids(journal: Path) -> list[str]:
    """Return the ids of the events that listeners heard of."""
    return [line["id"] for line in read_journal(journal)]
