"""Case 37: pg_upgrade carries the slot over after an orderly stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_project.postgres import Postgres
from tests.process import Process, eventually

from .listener import ONE, heard, listening, stop, with_stream
from .server import SLOT, Server

UPGRADES_SLOTS_SINCE = 17


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("drained", [False, True])
def test_an_orderly_stop_leaves_nothing_unread(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    atomic: bool,
    drained: bool,
) -> None:
    if _version(server) < UPGRADES_SLOTS_SINCE:
        pytest.skip("the server does not upgrade slots")
    env = with_stream(environment, ATOMIC=atomic)
    for number in range(2):
        # The second start accepts the position at which the first one has ended.
        name = str(number)
        if drained:
            server.write(name)
            with Process("walex_listen", *ONE, "--drain", env=env) as listener:
                assert listener.wait() == 0, listener.output
        else:
            with listening(env) as listener:
                server.write(name)
                eventually(lambda name=name: heard(journal)[-1:] == [name])  # type: ignore[misc]
                stop(listener)
        assert _unread(server) == 0, listener.output
    assert heard(journal) == ["0", "1"]
    assert server.execute("SELECT state FROM walex_django_listenerreport") == [
        ("stopped",)
    ]


def test_a_slot_that_was_moved_by_one_row_is_still_noticed(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with listening(environment) as listener:
        stop(listener)
    server.write("lost")
    server.execute(
        f"SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())"
    )
    with Process("walex_listen", *ONE, env=environment) as listener:
        assert listener.wait() == 1
    assert "moved by another client" in listener.output


def _version(server: Postgres) -> int:
    return int((server.data / "PG_VERSION").read_text())


def _unread(server: Server) -> int:
    """Return how many transactions pg_upgrade would find that are not read."""
    with server.connect() as connection:
        # Those of all tables of the database, not just of published ones.
        connection.execute(
            f"SELECT pg_copy_logical_replication_slot('{SLOT}', 'copy', true,"
            " 'test_decoding')"
        )
        ((count,),) = connection.execute(
            "SELECT count(*) FROM pg_logical_slot_get_changes('copy', NULL, NULL)"
        ).fetchall()
        connection.execute("SELECT pg_drop_replication_slot('copy')")
    return int(count)
