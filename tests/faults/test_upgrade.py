"""``pg_upgrade`` carries the slot over after an orderly stop."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from example_project.postgres import Postgres
from tests import versions
from tests.process import Process, eventually

from .listener import ONE, delivered, environment_on, listening, stop, with_stream
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
                eventually(lambda name=name: delivered(journal)[-1:] == [name])  # type: ignore[misc]
                stop(listener)
        assert _unread(server) == 0, listener.output
    assert delivered(journal) == ["0", "1"]
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


@pytest.mark.heavy
def test_pg_upgrade_carries_the_slot_over(tmp_path: Path) -> None:
    try:
        old_bin, new_bin = versions.programs("17"), versions.programs("18")
    except versions.NotFetchedError as error:
        pytest.skip(str(error))
    journal = tmp_path / "journal"
    with Postgres(bin=old_bin) as old, Postgres(bin=new_bin) as new:
        # pg_upgrade starts both servers itself, and logs in without a password.
        for server in (old, new):
            (server.data / "pg_hba.conf").write_text(
                "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            )
        env = {**environment_on(old), "ZOO_JOURNAL": str(journal)}
        for command in (["migrate", "--verbosity=0"], ["walex_setup", *ONE]):
            with Process(*command, env=env) as process:
                assert process.wait() == 0, process.output
        with listening(env) as listener:
            _write(old, "before")
            eventually(lambda: delivered(journal) == ["before"])
            stop(listener)
        old.stop("fast")
        new.stop("fast")
        # The default of PostgreSQL 18.
        old.run("pg_checksums", "--enable", "--no-sync", str(old.data))
        settings = " ".join(f"-c {k}={v}" for k, v in old.settings.items())
        new.run(
            "pg_upgrade",
            *("-b", str(old.bin), "-B", str(new.bin)),
            *("-d", str(old.data), "-D", str(new.data)),
            *("-U", "postgres", "-s", str(new.home)),
            *("-o", settings, "-O", settings),
        )
        new.password = old.password
        new.start()
        upgraded = {**environment_on(new), "ZOO_JOURNAL": str(journal)}
        with listening(upgraded) as listener:
            _write(new, "after")
            eventually(lambda: delivered(journal) == ["before", "after"])
            stop(listener)


def _write(server: Postgres, name: str) -> None:
    with psycopg.connect(server.url()) as connection:
        connection.execute("INSERT INTO zoo_keeper (name) VALUES (%s)", [name])
