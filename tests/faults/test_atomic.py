"""With ``ATOMIC`` the effects on the database happen exactly once."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.process import eventually

from .ledger import Entry, Ledger
from .listener import BACK, heard, kill, listening, stop, with_stream
from .load import Load
from .patience import patiently
from .server import Server


@pytest.fixture
def atomic(loaded: dict[str, str]) -> dict[str, str]:
    """The environment of a listener under load, whose receiver writes effects."""
    return {**with_stream(loaded, ATOMIC=True), "ZOO_EFFECTS": "1"}


def effects(server: Server) -> list[Entry]:
    """Return what receivers did, as a ledger has it."""
    rows = server.execute("SELECT event_id, label FROM zoo_effect ORDER BY id")
    return [Entry(*row) for row in rows]


@pytest.mark.parametrize(
    ("kills", "changes"),
    [(3, 2_000), pytest.param(20, 50_000, marks=pytest.mark.heavy)],
)
def test_no_effect_is_lost_or_doubled_when_the_listener_is_killed(
    server: Server, atomic: dict[str, str], ledger: Ledger, kills: int, changes: int
) -> None:
    """Three writers; the listener dies at random moments, by kill -9."""
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
        ledger.wait_until_heard(load.committed())
        stop(listener)

    assert load.check(effects(server)) == 0
    # What was undone, receivers were called for again.
    print(load.check(ledger.entries), "calls were repeated")


@pytest.mark.parametrize(
    ("kills", "changes"),
    [(2, 2_000), pytest.param(10, 50_000, marks=pytest.mark.heavy)],
)
def test_no_effect_is_lost_or_doubled_when_the_server_is_killed(
    server: Server, atomic: dict[str, str], ledger: Ledger, kills: int, changes: int
) -> None:
    """The same server has the rows, the slot, the effects and the checkpoint."""
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
            patiently(lambda n=number: listener.output.count(BACK) > n, BACK)  # type: ignore[misc]
        load.write(portion)
        load.stop()
        ledger.wait_until_heard(load.committed())
        stop(listener)

    assert load.check(effects(server)) == 0


def test_killed_in_the_middle_of_a_transaction_it_leaves_no_effect_of_it(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 1: 50 inserts in one transaction; kill -9 inside the receiver at row 20."""
    env = {**with_stream(environment, ATOMIC=True), "ZOO_EFFECTS": "1"}
    names = [str(number) for number in range(50)]
    names[19] = "wait for 1"
    with server.held(1), listening(env) as listener:
        server.write(*names)
        eventually(server.waits_for_lock, "the work on row 20")
        kill(listener)
    assert heard(journal) == names[:19]
    assert effects(server) == []

    with listening(env) as listener:
        eventually(lambda: heard(journal)[19:] == names, "all of the transaction")
        stop(listener)
    done = [entry.change.split(maxsplit=2)[-1] for entry in effects(server)]
    assert done == names


def test_killed_between_commit_and_acknowledgement_it_does_nothing_again(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The next transaction is in a receiver's hands, this one in the database."""
    env = {**with_stream(environment, ATOMIC=True), "ZOO_EFFECTS": "1"}
    with server.held(1), listening(env) as listener:
        server.write("done")
        server.write("wait for 1")
        eventually(server.waits_for_lock, "the receiver's work")
        assert len(effects(server)) == 1
        kill(listener)

    with listening(env) as listener:
        eventually(lambda: heard(journal)[-1] == "wait for 1")
        stop(listener)
    assert heard(journal) == ["done", "wait for 1"]
    assert len(effects(server)) == 2
