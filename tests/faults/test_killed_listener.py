"""The listener is killed or stopped, and another one takes over."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import Process, eventually, read_journal

from .listener import (
    delivered,
    drain,
    ids,
    is_ending,
    kill,
    listening,
    stop,
    with_stream,
)
from .server import Server, lsn


def test_kill_within_a_transaction_redelivers_all_of_it(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """50 inserts in one transaction; SIGKILL inside the receiver at row 20."""
    names = [str(number) for number in range(50)]
    names[19] = "wait for 1"
    with server.blocking_receivers(1), listening(environment) as listener:
        server.write(*names)
        position = server.position()
        eventually(server.has_blocked_receiver, "the receiver at row 20")
        server.wait_for_replies(2)
        kill(listener)
        assert delivered(journal) == names[:19]
        assert server.confirmed() < position

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(environment) as listener:
        eventually(lambda: delivered(journal)[19:] == names, "all of the transaction")
        stop(listener)
    assert ids(journal)[:19] == ids(journal)[19:38]
    assert len(set(ids(journal))) == 50


@pytest.mark.parametrize("end", [stop, kill])
def test_open_transaction_is_delivered_whole_at_its_commit(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    end: Callable[[Process], None],
) -> None:
    """The transaction stays open while others commit and the listener is replaced."""
    insert = "INSERT INTO zoo_keeper (name) VALUES (%s)"
    with server.connect() as first, listening(environment) as listener:
        first.autocommit = False
        first.execute(insert, ["first, early"])
        server.write("second")
        position = server.position()
        eventually(lambda: delivered(journal) == ["second"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        end(listener)

        eventually(lambda: server.walsender() is None, "the end of the walsender")
        with listening(environment) as successor:
            first.execute(insert, ["first, late"])
            server.write("third")
            eventually(lambda: delivered(journal) == ["second", "third"])
            first.commit()
            eventually(lambda: len(delivered(journal)) == 4, "the first transaction")
            stop(successor)

    assert delivered(journal) == ["second", "third", "first, early", "first, late"]
    second, third, early, late = (line["xid"] for line in read_journal(journal))
    assert len({second, third, early}) == 3
    assert early == late


def test_commit_at_the_acknowledged_position_is_not_lost(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """An open transaction is not acknowledged, even if its COMMIT comes next."""
    with server.connect() as session:
        session.autocommit = False
        session.execute("INSERT INTO zoo_keeper (name) VALUES ('open')")
        with listening(environment) as listener:
            server.write("committed")
            eventually(
                lambda: server.confirmed() >= server.position(), "the acknowledgement"
            )
            # The positions in keepalives are acknowledged as well.
            server.wait_for_replies(3)
            kill(listener)
        # Nothing else writes, so the COMMIT is written at exactly this position.
        assert server.confirmed() <= server.position()
        session.commit()

    drain(environment)
    assert delivered(journal) == ["committed", "open"]


def test_completed_work_is_acknowledged_on_sigterm(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """SIGTERM right after the receiver returns."""
    with listening(environment) as listener:
        server.write("done")
        eventually(lambda: delivered(journal) == ["done"])
        stop(listener)

    assert server.confirmed() > lsn(read_journal(journal)[0]["lsn"])
    server.write("next")
    drain(environment)
    assert delivered(journal) == ["done", "next"]


def test_sigterm_within_a_transaction_stops_after_its_end(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """SIGTERM within a transaction that is delivered in several chunks."""
    env = with_stream(environment, MAX_BATCH=10)
    names = [str(number) for number in range(50)]
    names[24] = "wait for 1"
    with listening(env) as listener:
        with server.blocking_receivers(1):
            server.write(*names)
            end = server.position()
            server.write("another transaction")
            eventually(server.has_blocked_receiver, "the receiver at row 25")
            server.wait_for_replies(2)
            stopping = server.confirmed()
            listener.signal(signal.SIGTERM)
            eventually(lambda: is_ending(listener), "the shutdown")
        assert listener.wait() == 0, listener.output

    assert stopping < lsn(read_journal(journal)[0]["lsn"])
    assert delivered(journal) == names
    assert server.confirmed() >= end
    assert server.walsender() is None
    drain(env)
    assert delivered(journal) == [*names, "another transaction"]
