"""A stream never becomes a synchronous standby."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import ONE, delivered, listening, stop, with_stream
from .server import Server

_REMEDY = "ALTER SYSTEM SET synchronous_standby_names"


@pytest.mark.parametrize(
    "names", ["*", 'FIRST 1 (other, "Walex_Django zoo_walex")'], ids=["all", "by name"]
)
def test_a_listener_that_would_be_one_refuses_to_start(
    server: Server, environment: dict[str, str], journal: Path, names: str
) -> None:
    _set(server, names)
    with Process("walex_listen", *ONE, env=environment) as listener:
        assert listener.wait() == 1
    assert f"synchronous_standby_names = '{names}'" in listener.lines[-1]
    assert _REMEDY in listener.lines[-1]
    assert "Traceback" not in listener.output

    _set(server, "other")
    # Nothing that a listener itself writes waits for a standby that is not there.
    with listening(environment) as listener:
        with server.connect() as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
        eventually(lambda: delivered(journal) == ["Ada"])
        assert server.execute(
            "SELECT sync_state FROM pg_stat_replication"
            " WHERE application_name = 'walex_django zoo_walex'"
        ) == [("async",)]
        stop(listener)


def _set(server: Server, names: str) -> None:
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    server.execute("SELECT pg_reload_conf()")


def test_a_listener_that_becomes_one_ends(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with listening(environment) as listener:
        _set(server, "*")
        listener.wait_for("Stream default failed: synchronous_standby_names")
        assert listener.wait() == 1
    assert _REMEDY in listener.lines[-1]
    _set(server, "")
    server.write("after")
    with listening(environment) as listener:
        eventually(lambda: delivered(journal) == ["after"])
        stop(listener)


def test_commits_of_receivers_keep_their_own_setting(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The COMMIT of an atomic transaction waits for a standby that is not there."""
    _set(server, "other")
    with listening(with_stream(environment, ATOMIC=True)) as listener:
        with server.connect() as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
        eventually(lambda: _waits(server), "the COMMIT's wait")
        _set(server, "")
        eventually(lambda: delivered(journal) == ["Ada"])
        stop(listener)


def _waits(server: Server) -> bool:
    return bool(
        server.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    )
