"""Case 10: two listeners on one slot; one works, the other one waits."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .ledger import Ledger
from .listener import ONE, heard, kill, listening, stop
from .load import Load
from .server import Server

_WAITS = "Waiting to take over."


@pytest.mark.parametrize(
    ("kills", "changes"), [(2, 600), pytest.param(10, 6_000, marks=pytest.mark.heavy)]
)
def test_the_one_that_waits_takes_over(
    server: Server,
    loaded: dict[str, str],
    ledger: Ledger,
    kills: int,
    changes: int,
) -> None:
    """The holder is killed, again and again, under light load."""
    portion = changes // (kills + 1)
    with ExitStack() as processes, Load(server.url(), seed=kills) as load:
        holder = processes.enter_context(listening(loaded))
        for _ in range(kills):
            standby = processes.enter_context(Process("walex_listen", *ONE, env=loaded))
            line = standby.wait_for(_WAITS)
            assert f"in use by the PostgreSQL process {server.walsender()}" in line
            load.write(portion)
            ledger.wait_for(portion // 2)
            walsender, killed_at = server.walsender(), time.monotonic()
            kill(holder)
            eventually(
                lambda old=walsender: server.walsender() not in {None, old},  # type: ignore[misc]
                "the taking over",
            )
            print(f"taken over in {time.monotonic() - killed_at:.2f} s")
            standby.wait_for("Quit with")
            holder = standby
        load.write(portion)
        load.stop()
        ledger.wait_until_heard(load.committed())
        stop(holder)

    print(load.check(ledger.entries), "events were repeated")


def test_nothing_comes_twice_when_the_first_one_ends_in_order(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with (
        listening(environment) as first,
        Process("walex_listen", *ONE, env=environment) as second,
    ):
        second.wait_for(_WAITS)
        server.write("for the first")
        eventually(lambda: heard(journal) == ["for the first"])
        stop(first)
        second.wait_for("Quit with")
        server.write("for the second")
        eventually(lambda: len(heard(journal)) == 2)
        stop(second)
    assert heard(journal) == ["for the first", "for the second"]
    assert second.output.count(_WAITS) == 1


def test_one_that_waits_ends_when_it_is_told_to(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with listening(environment) as holder:
        with Process("walex_listen", *ONE, env=environment) as standby:
            standby.wait_for(_WAITS)
            stop(standby)
        server.write("heard by the holder")
        eventually(lambda: heard(journal) == ["heard by the holder"])
        stop(holder)


def test_one_that_shall_not_wait_says_who_has_the_slot(
    server: Server, environment: dict[str, str]
) -> None:
    with listening(environment) as holder:
        with Process("walex_listen", *ONE, "--no-wait", env=environment) as second:
            assert second.wait() == 1
        (line,) = second.lines
        assert f"in use by the PostgreSQL process {server.walsender()}" in line
        stop(holder)
