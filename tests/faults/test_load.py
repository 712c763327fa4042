"""Nothing is lost under load when the listener or the server is killed."""

from __future__ import annotations

from random import Random

import pytest

from .ledger import Ledger
from .listener import RECONNECTED, kill, listening, stop
from .load import Load
from .server import Server
from .waiting import wait_long


@pytest.mark.parametrize(
    ("kills", "changes"),
    [(3, 3_000), pytest.param(20, 50_000, marks=pytest.mark.heavy)],
)
def test_nothing_is_lost_when_the_listener_is_killed(
    server: Server,
    loaded: dict[str, str],
    ledger: Ledger,
    kills: int,
    changes: int,
) -> None:
    """Three writers; the listener is killed by SIGKILL at random moments."""
    random, portion = Random(kills), changes // (kills + 1)
    with Load(server.url(), seed=kills) as load:
        for _ in range(kills):
            with listening(loaded) as listener:
                load.write(portion)
                ledger.wait_for(random.randint(1, portion))
                kill(listener)
        load.write(portion)
        load.stop()
    with listening(loaded) as listener:
        ledger.wait_until_delivered(load.committed())
        stop(listener)

    assert len(load.committed()) >= changes
    print(load.check(ledger.entries), "events were repeated")


@pytest.mark.parametrize(
    ("kills", "changes"),
    [(2, 3_000), pytest.param(10, 50_000, marks=pytest.mark.heavy)],
)
def test_nothing_is_lost_when_the_server_is_killed(
    server: Server,
    loaded: dict[str, str],
    ledger: Ledger,
    kills: int,
    changes: int,
) -> None:
    """Three writers; the server crashes at random moments and recovers."""
    random, portion = Random(kills), changes // (kills + 1)
    with (
        listening(loaded) as listener,
        Load(server.url(), seed=kills) as load,
    ):
        for number in range(kills):
            load.write(portion)
            ledger.wait_for(random.randint(1, portion))
            server.stop("immediate")
            server.start()
            wait_long(
                lambda n=number: listener.output.count(RECONNECTED) > n,  # type: ignore[misc]
                RECONNECTED,
            )
        load.write(portion)
        load.stop()
        ledger.wait_until_delivered(load.committed())
        stop(listener)

    assert len(load.committed()) >= changes
    print(load.check(ledger.entries), "events were repeated")
    print(sum(writer.in_doubt for writer in load.writers), "commits were in doubt")
