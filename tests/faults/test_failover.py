"""The primary fails, its standby is promoted, and the stream resumes there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.copies import Original
from tests.process import Process, eventually

from .listener import ONE, delivered, environment_on, listening, stop, with_stream
from .proxy import Proxy
from .server import SLOT, Server

FAILOVER_SINCE = 17


class Standby(Server):
    """
    A standby of a primary that is a copy of the same server.

    Args:
        original: The stopped server that both are copies of.
        primary: The primary to follow.
    """

    def __init__(
        self, original: Original, primary: Server, *, bin: Path | None
    ) -> None:
        super().__init__(
            original,
            bin=bin,
            settings={
                "primary_conninfo": f"{primary.url()}?application_name=standby",
                "primary_slot_name": "standby",
                "hot_standby_feedback": "on",
                "sync_replication_slots": "on",
                "wal_receiver_status_interval": "1s",
                "wal_sender_timeout": "3s",
            },
        )

    def _initdb(self) -> None:
        super()._initdb()
        # A base backup contains no slots.
        shutil.rmtree(self.data / "pg_replslot" / SLOT)
        (self.data / "standby.signal").touch()

    def has_caught_up(self, position: int) -> bool:
        """Return whether it has a copy of the slot and the WAL up to a position."""
        return bool(
            self.execute(
                "SELECT FROM pg_replication_slots WHERE slot_name = %s AND synced"
                " AND NOT temporary AND pg_last_wal_replay_lsn() - '0/0' >= %s",
                [SLOT, position],
            )
        )


@pytest.fixture
def primary(original: Original, programs: Path | None) -> Iterator[Server]:
    """A server whose walsenders wait for the standby."""
    if int((original.data / "PG_VERSION").read_text()) < FAILOVER_SINCE:
        pytest.skip("the server has no failover slots, which PostgreSQL 17 brings")
    settings = {"wal_sender_timeout": "3s", "synchronized_standby_slots": "standby"}
    with Server(original, bin=programs, settings=settings) as server:
        server.execute("SELECT pg_create_physical_replication_slot('standby', true)")
        yield server


@pytest.fixture
def network(primary: Server) -> Iterator[Proxy]:
    """A proxy that leads to the current primary."""
    with Proxy(primary.port) as proxy:
        yield proxy


@pytest.fixture
def env(primary: Server, network: Proxy) -> dict[str, str]:
    """The environment of a listener that follows a promoted standby."""
    url = primary.url().replace(str(primary.port), str(network.port))
    addresses = {"ZOO_DATABASE_URL": url, "ZOO_SECOND_URL": url}
    return with_stream({**environment_on(primary), **addresses}, FAILOVER=True)


@pytest.mark.parametrize("atomic", [False, True], ids=["plain", "atomic"])
def test_stream_resumes_after_a_failover(
    original: Original,
    programs: Path | None,
    primary: Server,
    network: Proxy,
    env: dict[str, str],
    journal: Path,
    atomic: bool,
) -> None:
    env = with_stream({**env, "ZOO_JOURNAL": str(journal)}, ATOMIC=atomic)
    with Process("walex_listen", *ONE, env=env) as listener:
        assert listener.wait() == 1
        assert "standbys keep no copy" in listener.output
    with Process("walex_setup", *ONE, env=env) as setup:
        assert setup.wait() == 0, setup.output
        assert 'synchronize the slot "zoo_walex" to standbys' in setup.output

    with (
        Standby(original, primary, bin=programs) as standby,
        listening(env) as listener,
    ):
        names = [f"before {number}" for number in range(20)]
        for name in names:
            primary.write(name)
            # A standby keeps a slot's copy only once the slot has caught up with it.
            primary.execute("SELECT pg_log_standby_snapshot()")
        eventually(lambda: delivered(journal) == names)
        eventually(lambda: standby.has_caught_up(primary.confirmed()), "the copy")

        network.refuse()
        network.cut()
        primary.write("meanwhile")
        position = primary.position()
        eventually(lambda: standby.has_caught_up(position), "the replication")
        primary.stop("immediate")
        network.target = standby.port
        network.accept()
        listener.wait_for("is a standby's copy")

        standby.execute("SELECT pg_promote()")
        standby.write("after")
        eventually(
            lambda: delivered(journal)[-1:] == ["after"], "the new primary's row"
        )
        stop(listener)
        assert standby.confirmed() > position

    # Events acknowledged after the last copy are repeated, except with ATOMIC.
    assert list(dict.fromkeys(delivered(journal))) == [*names, "meanwhile", "after"]
    assert not atomic or len(delivered(journal)) == len(names) + 2
