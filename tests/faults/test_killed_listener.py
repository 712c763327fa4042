"""The listener dies, or is told to end, and another one goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import Process, eventually, read_journal

from .listener import drain, heard, ids, is_ending, kill, listening, stop, with_stream
from .server import Server, lsn


def test_killed_in_the_middle_of_a_transaction_it_hears_all_of_it_again(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 1: 50 inserts in one transaction; kill -9 inside the receiver at row 20."""
    names = [str(number) for number in range(50)]
    names[19] = "wait for 1"
    with server.held(1), listening(environment) as listener:
        server.write(*names)
        position = server.position()
        eventually(server.waits_for_lock, "the work on row 20")
        server.hear(2)
        kill(listener)
        assert heard(journal) == names[:19]
        assert server.confirmed() < position

    eventually(lambda: server.walsender() is None, "the end of the walsender")
    with listening(environment) as listener:
        eventually(lambda: heard(journal)[19:] == names, "all of the transaction")
        stop(listener)
    assert ids(journal)[:19] == ids(journal)[19:38]
    assert len(set(ids(journal))) == 50


@pytest.mark.parametrize("end", [stop, kill])
def test_open_transactions_come_whole_and_at_their_commit(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    end: Callable[[Process], None],
) -> None:
    """Case 2: one is open, others commit, and the listener is replaced meanwhile."""
    insert = "INSERT INTO zoo_keeper (name) VALUES (%s)"
    with server.connect() as first, listening(environment) as listener:
        first.autocommit = False
        first.execute(insert, ["first, early"])
        server.write("second")
        position = server.position()
        eventually(lambda: heard(journal) == ["second"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        end(listener)

        eventually(lambda: server.walsender() is None, "the end of the walsender")
        with listening(environment) as successor:
            first.execute(insert, ["first, late"])
            server.write("third")
            eventually(lambda: heard(journal) == ["second", "third"])
            first.commit()
            eventually(lambda: len(heard(journal)) == 4, "the first transaction")
            stop(successor)

    assert heard(journal) == ["second", "third", "first, early", "first, late"]
    second, third, early, late = (line["xid"] for line in read_journal(journal))
    assert len({second, third, early}) == 3
    assert early == late


def test_a_commit_exactly_at_what_was_acknowledged_is_not_lost(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Nothing is acknowledged of a transaction that is only about to end."""
    with server.connect() as session:
        session.autocommit = False
        session.execute("INSERT INTO zoo_keeper (name) VALUES ('open')")
        with listening(environment) as listener:
            server.write("committed")
            eventually(
                lambda: server.confirmed() >= server.position(), "the acknowledgement"
            )
            # What keepalives say is acknowledged too.
            server.hear(3)
            kill(listener)
        # Nobody writes any more, so that its COMMIT comes to lie there.
        assert server.confirmed() <= server.position()
        session.commit()

    drain(environment)
    assert heard(journal) == ["committed", "open"]


def test_what_was_done_before_sigterm_is_acknowledged(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 6: SIGTERM right after the work is done."""
    with listening(environment) as listener:
        server.write("done")
        eventually(lambda: heard(journal) == ["done"])
        stop(listener)

    assert server.confirmed() > lsn(read_journal(journal)[0]["lsn"])
    server.write("next")
    drain(environment)
    assert heard(journal) == ["done", "next"]


def test_sigterm_in_a_transaction_ends_after_all_of_it(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 6: in the middle of one that is handed over in several chunks."""
    env = with_stream(environment, MAX_BATCH=10)
    names = [str(number) for number in range(50)]
    names[24] = "wait for 1"
    with listening(env) as listener:
        with server.held(1):
            server.write(*names)
            end = server.position()
            server.write("another transaction")
            eventually(server.waits_for_lock, "the work on row 25")
            server.hear(2)
            stopping = server.confirmed()
            listener.signal(signal.SIGTERM)
            eventually(lambda: is_ending(listener), "obedience")
        assert listener.wait() == 0, listener.output

    assert stopping < lsn(read_journal(journal)[0]["lsn"])
    assert heard(journal) == names
    assert server.confirmed() >= end
    assert server.walsender() is None
    drain(env)
    assert heard(journal) == [*names, "another transaction"]
