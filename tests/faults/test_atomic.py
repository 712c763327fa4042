"""With ``ATOMIC``, receivers' effects on the database happen exactly once."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.process import eventually

from .ledger import Entry, Ledger
from .listener import RECONNECTED, delivered, kill, listening, stop, with_stream
from .load import Load
from .server import Server
from .waiting import wait_long


@pytest.fixture
def atomic(loaded: dict[str, str]) -> dict[str, str]:
    """The environment of a listener under load whose receiver writes effects."""
    return {**with_stream(loaded, ATOMIC=True), "ZOO_EFFECTS": "1"}


def effects(server: Server) -> list[Entry]:
    """Return the receivers' effects as entries of a ledger."""
    rows = server.execute("SELECT event_id, label FROM zoo_effect ORDER BY id")
    return [Entry(*row) for row in rows]


@pytest.mark.parametrize(
    ("kills", "changes"),
    [(3, 2_000), pytest.param(20, 50_000, marks=pytest.mark.heavy)],
)
def test_effects_happen_exactly_once_when_the_listener_is_killed(
    server: Server, atomic: dict[str, str], ledger: Ledger, kills: int, changes: int
) -> None:
    """Three writers; the listener is killed by SIGKILL at random moments."""
    random, portion = Random(kills), changes // (kills + 1)
    with Load(server.url(), seed=kills) as load:
        for _ in range(kills):
            with listening(atomic) as listener:
                load.write(portion)
                ledger.wait_for(random.randint(1, portion))
                kill(listener)
        load.write(portion)
        load.stop()
    with listening(atomic) as listener:
        ledger.wait_until_delivered(load.committed())
        stop(listener)

    assert load.check(effects(server)) == 0
    # Receivers are called again for what was rolled back.
    print(load.check(ledger.entries), "calls were repeated")


@pytest.mark.parametrize(
    ("kills", "changes"),
    [(2, 2_000), pytest.param(10, 50_000, marks=pytest.mark.heavy)],
)
def test_effects_happen_exactly_once_when_the_server_is_killed(
    server: Server, atomic: dict[str, str], ledger: Ledger, kills: int, changes: int
) -> None:
    """The rows, the slot, the effects and the checkpoint are on one server."""
    random, portion = Random(kills), changes // (kills + 1)
    with (
        listening(atomic) as listener,
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

    assert load.check(effects(server)) == 0


def test_kill_within_a_transaction_rolls_back_its_effects(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """50 inserts in one transaction; SIGKILL inside the receiver at row 20."""
    env = {**with_stream(environment, ATOMIC=True), "ZOO_EFFECTS": "1"}
    names = [str(number) for number in range(50)]
    names[19] = "wait for 1"
    with server.blocking_receivers(1), listening(env) as listener:
        server.write(*names)
        eventually(server.has_blocked_receiver, "the receiver at row 20")
        kill(listener)
    assert delivered(journal) == names[:19]
    assert effects(server) == []

    with listening(env) as listener:
        eventually(lambda: delivered(journal)[19:] == names, "all of the transaction")
        stop(listener)
    done = [entry.change.split(maxsplit=2)[-1] for entry in effects(server)]
    assert done == names


def test_kill_between_commit_and_acknowledgement_repeats_no_effect(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """This transaction is in the database, the next one still with a receiver."""
    env = {**with_stream(environment, ATOMIC=True), "ZOO_EFFECTS": "1"}
    with server.blocking_receivers(1), listening(env) as listener:
        server.write("done")
        server.write("wait for 1")
        eventually(server.has_blocked_receiver, "the blocked receiver")
        assert len(effects(server)) == 1
        kill(listener)

    with listening(env) as listener:
        eventually(lambda: delivered(journal)[-1] == "wait for 1")
        stop(listener)
    assert delivered(journal) == ["done", "wait for 1"]
    assert len(effects(server)) == 2
