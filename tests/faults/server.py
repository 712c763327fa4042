"""A PostgreSQL server for one test, which may kill it."""

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
    """A copy of the server with the zoo's tables and stream."""

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a session in autocommit."""
        return psycopg.connect(self.url(database), autocommit=True)

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement in a new session; return the rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            # Rows may have no columns: SELECT FROM … WHERE …
            has_rows = (
                cursor.pgresult and cursor.pgresult.status == ExecStatus.TUPLES_OK
            )
            return cursor.fetchall() if has_rows else []

    def write(self, *names: str) -> None:
        """Insert keepers with these names in one transaction."""
        self.execute(
            "INSERT INTO zoo_keeper (name) SELECT unnest(%s::text[])", [list(names)]
        )

    def position(self) -> int:
        """Return the LSN of the end of the WAL."""
        return self._lsn("SELECT pg_current_wal_flush_lsn() - '0/0'")

    def confirmed(self) -> int:
        """Return the LSN that the slot has confirmed."""
        return self._lsn(
            "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots"
            f" WHERE slot_name = '{SLOT}'"
        )

    def sent(self) -> int:
        """Return the LSN up to which the walsender has sent WAL."""
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
        """Return the send time of the listener's last reply."""
        rows = self.execute(
            "SELECT reply_time FROM pg_stat_replication"
            f" WHERE pid = (SELECT active_pid FROM pg_replication_slots"
            f" WHERE slot_name = '{SLOT}')"
        )
        return rows[0][0] if rows else None

    def wait_for_replies(self, times: int) -> None:
        """Wait for that many replies of the listener."""
        for _ in range(times):
            before = self.last_reply()
            eventually(lambda before=before: self.last_reply() != before, "a reply")  # type: ignore[misc]

    def has_blocked_receiver(self) -> bool:
        """Return whether a receiver is blocked, see `blocking_receivers`."""
        return bool(
            self.execute(
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
        )

    @contextmanager
    def blocking_receivers(self, lock: int) -> Iterator[None]:
        """Block receivers at a keeper named ``wait for <lock>``."""
        with self.connect() as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [lock])
            yield

    def _lsn(self, statement: str) -> int:
        ((value,),) = self.execute(statement)
        return int(value)


def lsn(text: str) -> int:
    """Return the number of an LSN such as ``0/16B3748``."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)
