"""Two listeners on one slot; one reads it, the other waits."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .ledger import Ledger
from .listener import ONE, delivered, kill, listening, stop
from .load import Load
from .server import Server

_WAITS = "Waiting to take over."


@pytest.mark.parametrize(
    ("kills", "changes"), [(2, 600), pytest.param(10, 6_000, marks=pytest.mark.heavy)]
)
def test_waiting_listener_takes_over_when_the_other_is_killed(
    server: Server,
    loaded: dict[str, str],
    ledger: Ledger,
    kills: int,
    changes: int,
) -> None:
    """The listener that holds the slot is killed repeatedly under light load."""
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
                "the takeover",
            )
            print(f"taken over in {time.monotonic() - killed_at:.2f} s")
            standby.wait_for("Quit with")
            holder = standby
        load.write(portion)
        load.stop()
        ledger.wait_until_delivered(load.committed())
        stop(holder)

    print(load.check(ledger.entries), "events were repeated")


def test_clean_handover_repeats_no_event(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with (
        listening(environment) as first,
        Process("walex_listen", *ONE, env=environment) as second,
    ):
        second.wait_for(_WAITS)
        server.write("for the first")
        eventually(lambda: delivered(journal) == ["for the first"])
        stop(first)
        second.wait_for("Quit with")
        server.write("for the second")
        eventually(lambda: len(delivered(journal)) == 2)
        stop(second)
    assert delivered(journal) == ["for the first", "for the second"]
    assert second.output.count(_WAITS) == 1


def test_waiting_listener_stops_on_sigterm(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with listening(environment) as holder:
        with Process("walex_listen", *ONE, env=environment) as standby:
            standby.wait_for(_WAITS)
            stop(standby)
        server.write("for the holder")
        eventually(lambda: delivered(journal) == ["for the holder"])
        stop(holder)


def test_no_wait_reports_the_process_that_uses_the_slot(
    server: Server, environment: dict[str, str]
) -> None:
    with listening(environment) as holder:
        with Process("walex_listen", *ONE, "--no-wait", env=environment) as second:
            assert second.wait() == 1
        (line,) = second.lines
        assert f"in use by the PostgreSQL process {server.walsender()}" in line
        stop(holder)
