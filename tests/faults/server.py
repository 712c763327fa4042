"""A PostgreSQL server of the test's own, which may be killed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from tests.copies import Copy
from tests.process import eventually

SLOT = "zoo_walex"


class Server(Copy):
    """A copy of the server with the zoo and its stream."""

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a session in autocommit."""
        return psycopg.connect(self.url(database), autocommit=True)

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a session of its own; return the rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            # A row may be of no columns: SELECT FROM … WHERE …
            has_rows = (
                cursor.pgresult and cursor.pgresult.status == ExecStatus.TUPLES_OK
            )
            return cursor.fetchall() if has_rows else []

    def write(self, *names: str) -> None:
        """Commit keepers of these names, in one transaction."""
        self.execute(
            "INSERT INTO zoo_keeper (name) SELECT unnest(%s::text[])", [list(names)]
        )

    def position(self) -> int:
        """Return the end of the log."""
        return self._lsn("SELECT pg_current_wal_flush_lsn() - '0/0'")

    def confirmed(self) -> int:
        """Return up to where the slot was acknowledged, as this server knows."""
        return self._lsn(
            "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots"
            f" WHERE slot_name = '{SLOT}'"
        )

    def sent(self) -> int:
        """Return up to where the walsender has sent the log."""
        return self._lsn(
            "SELECT sent_lsn - '0/0' FROM pg_stat_replication"
            " JOIN pg_replication_slots ON active_pid = pid"
            f" WHERE slot_name = '{SLOT}'"
        )

    def walsender(self) -> int | None:
        """Return the process id of the backend that reads the slot."""
        ((pid,),) = self.execute(
            f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        )
        assert pid is None or isinstance(pid, int)
        return pid

    def last_reply(self) -> datetime | None:
        """Return when the listener has sent what the server heard last of it."""
        rows = self.execute(
            "SELECT reply_time FROM pg_stat_replication"
            f" WHERE pid = (SELECT active_pid FROM pg_replication_slots"
            f" WHERE slot_name = '{SLOT}')"
        )
        return rows[0][0] if rows else None

    def hear(self, times: int) -> None:
        """Wait for so many signs of life of the listener."""
        for _ in range(times):
            before = self.last_reply()
            eventually(lambda before=before: self.last_reply() != before, "a sign")  # type: ignore[misc]

    def waits_for_lock(self) -> bool:
        """Return whether a receiver is at work, see `held`."""
        return bool(
            self.execute(
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
        )

    @contextmanager
    def held(self, lock: int) -> Iterator[None]:
        """Keep receivers at work that hear of a keeper named ``wait for <lock>``."""
        with self.connect() as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [lock])
            yield

    def _lsn(self, statement: str) -> int:
        ((value,),) = self.execute(statement)
        return int(value)


def lsn(text: str) -> int:
    """Return the number that PostgreSQL writes as ``0/16B3748``."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)
