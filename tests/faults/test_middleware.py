"""The buffer of docs/middleware.md: killed while it holds what nobody heard of."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.process import ROOT, eventually

from .listener import drain, heard, kill, listening, stop, with_stream
from .server import Server

_PAGE = ROOT / "docs/middleware.md"
_CHOICE = """
import os
from datetime import timedelta
from hold_back import HoldBack

delay = timedelta(seconds=float(os.environ["ZOO_DELAY"]))
hold = HoldBack(os.environ["ZOO_HELD"], delay)
"""


@pytest.fixture
def buffered(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a listener with the buffer, as the page has it."""
    (module,) = re.findall(
        r"```python\n(# shop/hold_back.py\n.*?)```", _PAGE.read_text(), re.DOTALL
    )
    (tmp_path / "hold_back.py").write_text(module)
    (tmp_path / "zoo_hold_back.py").write_text(_CHOICE)
    env = with_stream(environment, MESSAGE_MIDDLEWARE="zoo_hold_back.hold")
    return {
        **env,
        "PYTHONPATH": str(tmp_path),
        "ZOO_HELD": str(tmp_path / "held.sqlite3"),
        "ZOO_DELAY": "3600",
    }


def after(env: dict[str, str], seconds: float) -> dict[str, str]:
    """Return the environment with another delay."""
    return {**env, "ZOO_DELAY": str(seconds)}


def commits_on_disk(env: dict[str, str]) -> int:
    """Return how many transactions are in the buffer's file."""
    try:
        with sqlite3.connect(f"file:{env['ZOO_HELD']}?mode=ro", uri=True) as disk:
            query = "SELECT count(*) FROM held WHERE instr(message, 'Commit') > 0"
            (count,) = disk.execute(query).fetchone()
        disk.close()
    except sqlite3.OperationalError:  # it is not there yet
        return 0
    return int(count)


def in_order(names: list[str]) -> list[str]:
    """Return the names in the order in which they were heard of first."""
    return list(dict.fromkeys(names))


def test_what_it_held_when_it_was_killed_comes_in_order(
    server: Server, buffered: dict[str, str], journal: Path
) -> None:
    """Killed twice: before anything was delivered, and in a receiver's call."""
    names = [str(number) for number in range(150)]
    names[70] = "die"
    with listening(buffered) as listener:
        server.write(names[0])
        first = server.position()
        for name in names[1:]:
            server.write(name)
        # The first 100 messages are in the hands of the thread that delivers.
        eventually(lambda: commits_on_disk(buffered) > 100, "the buffer")
        server.hear(5)
        kill(listener)
    assert commits_on_disk(buffered) > 100
    assert heard(journal) == []
    assert server.confirmed() < first

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(after(buffered, 0)) as listener:
        assert listener.wait() == 9
    assert heard(journal) == names[:70]

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    drain({**after(buffered, 0), "ZOO_IMMORTAL": "yes"})
    assert in_order(heard(journal)) == names
    eventually(lambda: server.confirmed() > first, "the acknowledgement")


@pytest.fixture
def written(server: Server) -> Iterator[list[str]]:
    """The names of keepers that are written all the time, each in a transaction."""
    written: list[str] = []
    ended = Event()

    def write() -> None:
        with server.connect() as session:
            while not ended.wait(0.002):
                name = str(len(written))
                session.execute("INSERT INTO zoo_keeper (name) VALUES (%s)", [name])
                written.append(name)

    thread = Thread(target=write)
    thread.start()
    yield written
    ended.set()
    thread.join()


def test_killed_again_and_again_while_it_delivers(
    server: Server, buffered: dict[str, str], journal: Path, written: list[str]
) -> None:
    late = after(buffered, 1)
    for _ in range(3):
        eventually(lambda: server.walsender() is None, "the end of the walsender")
        with listening(late) as listener:
            before = len(heard(journal))
            eventually(
                lambda: (
                    len(heard(journal)) > before + 100  # noqa: B023
                    and commits_on_disk(late) > 10
                ),
                "both",
            )
            kill(listener)
            assert commits_on_disk(late) > 0

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(after(buffered, 0)) as listener:
        count = len(written)
        eventually(lambda: len(set(heard(journal))) >= count, "all of them")
        stop(listener)
    names = in_order(heard(journal))
    assert names == [str(number) for number in range(len(names))]


@pytest.mark.parametrize("server", [{"track_commit_timestamp": "on"}], indirect=True)
def test_transactions_come_after_their_time(
    server: Server, buffered: dict[str, str], journal: Path
) -> None:
    """Across a restart too: what counts is when they were committed."""
    with listening(buffered) as listener:
        server.write("Ada")
        eventually(lambda: Path(buffered["ZOO_HELD"]).exists(), "the buffer")
        stop(listener)
    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(after(buffered, 1)) as listener:
        eventually(lambda: heard(journal) == ["Ada"])
        ((waited,),) = server.execute(
            "SELECT extract(epoch FROM clock_timestamp()"
            " - pg_xact_commit_timestamp(xmin)) FROM zoo_keeper"
        )
        assert waited >= 1
        stop(listener)
