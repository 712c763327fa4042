"""The buffer of docs/middleware.md survives a kill while it holds messages."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.process import ROOT, eventually

from .listener import delivered, drain, kill, listening, stop, with_stream
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
    """The environment of a listener with the buffer from the page."""
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


def with_delay(env: dict[str, str], seconds: float) -> dict[str, str]:
    """Return the environment with another delay in seconds."""
    return {**env, "ZOO_DELAY": str(seconds)}


def commits_on_disk(env: dict[str, str]) -> int:
    """Return the number of transactions in the buffer's file."""
    try:
        with sqlite3.connect(f"file:{env['ZOO_HELD']}?mode=ro", uri=True) as disk:
            query = "SELECT count(*) FROM held WHERE instr(message, 'Commit') > 0"
            (count,) = disk.execute(query).fetchone()
        disk.close()
    except sqlite3.OperationalError:  # the file does not exist yet
        return 0
    return int(count)


def first_deliveries(names: list[str]) -> list[str]:
    """Return the names without repetitions, in the order of first delivery."""
    return list(dict.fromkeys(names))


def test_held_messages_are_delivered_in_order_after_a_kill(
    server: Server, buffered: dict[str, str], journal: Path
) -> None:
    """Killed twice: before any delivery, and during a receiver's call."""
    names = [str(number) for number in range(150)]
    names[70] = "die"
    with listening(buffered) as listener:
        server.write(names[0])
        first = server.position()
        for name in names[1:]:
            server.write(name)
        # The delivering thread has already taken the first 100 messages.
        eventually(lambda: commits_on_disk(buffered) > 100, "the buffer")
        server.wait_for_replies(5)
        kill(listener)
    assert commits_on_disk(buffered) > 100
    assert delivered(journal) == []
    assert server.confirmed() < first

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(with_delay(buffered, 0)) as listener:
        assert listener.wait() == 9
    assert delivered(journal) == names[:70]

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    drain({**with_delay(buffered, 0), "ZOO_IMMORTAL": "yes"})
    assert first_deliveries(delivered(journal)) == names
    eventually(lambda: server.confirmed() > first, "the acknowledgement")


@pytest.fixture
def written(server: Server) -> Iterator[list[str]]:
    """The names of keepers that are written continuously, one per transaction."""
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


def test_repeated_kills_during_delivery_lose_nothing(
    server: Server, buffered: dict[str, str], journal: Path, written: list[str]
) -> None:
    late = with_delay(buffered, 1)
    for _ in range(3):
        eventually(lambda: server.walsender() is None, "the end of the walsender")
        with listening(late) as listener:
            before = len(delivered(journal))
            eventually(
                lambda: (
                    len(delivered(journal)) > before + 100  # noqa: B023
                    and commits_on_disk(late) > 10
                ),
                "both",
            )
            kill(listener)
            assert commits_on_disk(late) > 0

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(with_delay(buffered, 0)) as listener:
        count = len(written)
        eventually(lambda: len(set(delivered(journal))) >= count, "all of them")
        stop(listener)
    names = first_deliveries(delivered(journal))
    assert names == [str(number) for number in range(len(names))]


@pytest.mark.parametrize("server", [{"track_commit_timestamp": "on"}], indirect=True)
def test_transactions_are_delivered_after_the_delay(
    server: Server, buffered: dict[str, str], journal: Path
) -> None:
    """The delay counts from the commit, also across a restart."""
    with listening(buffered) as listener:
        server.write("Ada")
        eventually(lambda: Path(buffered["ZOO_HELD"]).exists(), "the buffer")
        stop(listener)
    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(with_delay(buffered, 1)) as listener:
        eventually(lambda: delivered(journal) == ["Ada"])
        ((waited,),) = server.execute(
            "SELECT extract(epoch FROM clock_timestamp()"
            " - pg_xact_commit_timestamp(xmin)) FROM zoo_keeper"
        )
        assert waited >= 1
        stop(listener)
