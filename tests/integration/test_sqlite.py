"""The receivers' database is SQLite and stores checkpoints and parked events."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.process import Process, eventually

from .stream import OwnStream, Stream
from .test_mistakes import ONE, fails

pytestmark = pytest.mark.django_db(transaction=True)


class Apart(Stream):
    """
    A stream of the second database; the first one is an SQLite file.

    Args:
        stream: The stream on the server that holds the second database.
        file: The file of the first database.
        atomic: The value of ATOMIC.
    """

    def __init__(self, stream: OwnStream, file: Path, *, atomic: bool) -> None:
        url = stream.env["ZOO_DATABASE_URL"]
        settings = {
            "DATABASE": "second",
            "SUBSCRIPTIONS": ["zoo.Keeper"],
            "MAX_RETRIES": 0,
            "MESSAGES": ["*"],
            "ATOMIC": atomic,
        }
        super().__init__(
            {
                **stream.env,
                "ZOO_DATABASE_URL": f"sqlite:///{file}",
                "ZOO_SECOND_URL": url,
                "ZOO_STREAM": json.dumps(settings),
            }
        )
        self.execute = stream.execute  # type: ignore[method-assign]


@pytest.fixture(params=[False])
def apart(
    request: pytest.FixtureRequest, own_stream: OwnStream, tmp_path: Path
) -> Stream:
    """A stream that is set up."""
    apart = Apart(own_stream, tmp_path / "zoo.sqlite3", atomic=request.param)
    apart.run("migrate", "walex_django", "--verbosity=0")
    apart.run("walex_setup", *ONE)
    return apart


@pytest.mark.parametrize("apart", [False, True], ids=["", "atomic"], indirect=True)
def test_stream_delivers_parks_and_resumes(apart: Stream) -> None:
    with apart.listening() as listener:
        apart.write("raise", "Bob")
        eventually(lambda: "Bob" in apart.delivered())
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0, listener.output
    apart.deliver("Kim")
    assert apart.delivered() == ["raise", "Bob", "Kim"]

    with Process("walex_replay", env=apart.env) as replay:
        assert replay.wait() == 1
    assert "RuntimeError: the keeper said so" in replay.lines[0]
    fixed = Stream({**apart.env, "ZOO_MENDED": "1"})
    assert fixed.run("walex_replay") == ["1 delivered, 0 failed again"]


def test_reports_are_written_without_time_zones(apart: Stream, tmp_path: Path) -> None:
    apart.env["ZOO_USE_TZ"] = "no"
    apart.deliver("Ada")
    assert _reports(tmp_path) == [("stopped", 1)]


def test_listener_that_waits_for_the_server_reports_it(
    apart: Stream, own_stream: OwnStream, tmp_path: Path
) -> None:
    with apart.listening():
        eventually(lambda: bool(_reports(tmp_path)))
        apart.write("Ada")
        eventually(lambda: apart.delivered() == ["Ada"])
        own_stream.server.stop("immediate")
        eventually(lambda: _reports(tmp_path) == [("retrying", 1)])
        # Deliveries are sampled although the lag is unknown.
        eventually(lambda: _samples(tmp_path) == [(1, None)])


def _reports(directory: Path) -> list[tuple[Any, ...]]:
    return _rows(directory, "SELECT state, events FROM walex_django_listenerreport")


def _samples(directory: Path) -> list[tuple[Any, ...]]:
    return _rows(directory, "SELECT events, lag FROM walex_django_streamsample")


def _rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(directory / "zoo.sqlite3")) as file:
        return file.execute(query).fetchall()


def test_recreated_slot_is_refused(apart: Stream) -> None:
    apart.deliver("before", end=signal.SIGKILL)
    start = apart.recreate_slot("lost")

    assert f"and now starts at {start}." in fails("walex_listen", apart.env)


class TestMessagesOnly:
    """Only messages outside of transactions arrive; the server does not count them."""

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
    def test_stream_resumes(
        self, apart: Stream, tmp_path: Path, end: signal.Signals
    ) -> None:
        # The server's own checkpoint was written after the slot was first created.
        apart.run("walex_setup", *ONE, "--recreate-slot")
        with apart.listening() as listener:
            before = self._position(tmp_path)
            apart.execute("SELECT pg_logical_emit_message(false, 'zoo', 'hello')")
            # Such a message alone does not make the server flush its WAL.
            apart.execute("SELECT pg_switch_wal()")
            eventually(lambda: self._position(tmp_path) > before, "the delivery")
            listener.signal(end)
            assert listener.wait() == (0 if end == signal.SIGTERM else -end)
        ((counted,),) = apart.execute(
            "SELECT total_txns FROM pg_stat_replication_slots"
        )
        assert counted == 0
        apart.deliver("after")
        assert apart.delivered() == ["after"]

    def _position(self, directory: Path) -> int:
        with closing(sqlite3.connect(directory / "zoo.sqlite3")) as file:
            cursor = file.execute("SELECT position FROM walex_django_checkpoint")
            ((position,),) = cursor.fetchall()
        return int(position)
