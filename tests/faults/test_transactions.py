"""Huge transactions, and transactions that are rolled back in whole or in part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.process import eventually

from .listener import delivered, listening, stop
from .server import Server
from .waiting import wait_long

_GROWTH = 64 * 1024  # kB, the limit


@pytest.mark.parametrize(
    "rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.heavy)]
)
def test_huge_transaction_is_delivered_in_order_in_constant_memory(
    server: Server, environment: dict[str, str], tmp_path: Path, rows: int
) -> None:
    """The listener keeps replying to the server meanwhile."""
    tally = tmp_path / "tally"
    env = {**environment, "ZOO_TALLY": str(tally)}
    del env["ZOO_JOURNAL"]
    insert = "INSERT INTO zoo_keeper (name) SELECT generate_series(1, %s)"
    with listening(env) as listener:
        walsender = server.walsender()
        server.execute(insert, [1000])
        eventually(lambda: len(_lines(tally)) == 1, "the warm-up")
        before = _peak(listener.pid)
        server.execute(insert, [rows])
        position = server.position()
        wait_long(lambda: len(_lines(tally)) == 2, "the end of the transaction")
        growth = _peak(listener.pid) - before
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        assert server.walsender() == walsender
        stop(listener)

    assert _lines(tally)[1] == {"count": rows, "misplaced": 0}
    assert growth < _GROWTH
    print(f"grew by {growth} kB")


def test_only_committed_changes_are_delivered(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Rollback, and savepoints that are rolled back, released or failed."""
    with listening(environment) as listener:
        with server.connect() as session:
            with _transaction(session, "ROLLBACK"):
                _insert(session, "rolled back")
                session.execute("SAVEPOINT one")
                _insert(session, "released, and rolled back")
                session.execute("RELEASE one")
            with _transaction(session, "COMMIT"):
                _insert(session, "before")
                session.execute("SAVEPOINT one")
                _insert(session, "undone")
                session.execute("SAVEPOINT two")
                _insert(session, "released, and undone")
                session.execute("RELEASE two")
                session.execute("ROLLBACK TO one")
                _insert(session, "instead")
                session.execute("SAVEPOINT three")
                _insert(session, "released")
                session.execute("RELEASE three")
                session.execute(
                    "DO $$BEGIN INSERT INTO zoo_keeper (name) VALUES ('failed');"
                    " PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END$$"
                )
                _insert(session, "after")
            with pytest.raises(psycopg.errors.UniqueViolation):
                session.execute(
                    "INSERT INTO zoo_keeper (id, name)"
                    " VALUES (0, 'fails'), (0, 'as a whole')"
                )
        server.write("last")
        eventually(lambda: delivered(journal)[-1:] == ["last"])
        stop(listener)

    assert delivered(journal) == ["before", "instead", "released", "after", "last"]


def test_prepared_transactions_are_delivered_at_their_commit(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Each of the two phases has its own listener."""
    with listening(environment) as listener, server.connect() as session:
        for name in ("kept", "dropped"):
            with _transaction(session, f"PREPARE TRANSACTION '{name}'"):
                _insert(session, f"{name}, first")
                _insert(session, f"{name}, second")
        server.write("committed meanwhile")
        eventually(lambda: delivered(journal) == ["committed meanwhile"])
        stop(listener)

    with listening(environment) as listener:
        server.execute("ROLLBACK PREPARED 'dropped'")
        server.write("still before")
        server.execute("COMMIT PREPARED 'kept'")
        server.write("last")
        eventually(lambda: delivered(journal)[-1:] == ["last"])
        stop(listener)

    assert delivered(journal) == [
        *("committed meanwhile", "still before"),
        *("kept, first", "kept, second", "last"),
    ]


@contextmanager
def _transaction(session: psycopg.Connection[Any], end: str) -> Iterator[None]:
    session.execute("BEGIN")
    yield
    session.execute(end.encode())


def _insert(session: psycopg.Connection[Any], name: str) -> None:
    session.execute("INSERT INTO zoo_keeper (name) VALUES (%s)", [name])


def _lines(tally: Path) -> list[dict[str, int]]:
    """Return the lines that `tests.zoo.tally` wrote."""
    if not tally.exists():
        return []
    lines = tally.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _peak(pid: int) -> int:
    """Return the peak memory of a process in kB. Source: proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])
