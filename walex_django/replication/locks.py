"""
Locks: statements that give up soon, and the sessions that they wait for.

A statement that waits for a strong lock on a table makes all later statements on this
table wait behind it.

Source: PostgreSQL, "Explicit Locking", ``lock_timeout`` and ``pg_blocking_pids()``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, LiteralString, NamedTuple, Self

import psycopg
from psycopg import errors, sql

from .connection import BoundedConnection, Connection, connect
from .errors import LockTimeout, ReplicationError

LOCK_TIMEOUT: Final = 2.0
"""Seconds to wait for a lock; others wait behind the statement meanwhile."""

ATTEMPTS: Final = 3
"""The number of attempts to get a lock."""

PAUSE: Final = 1.0
"""Seconds between two attempts, in which others get their locks."""

_QUERY_LENGTH = 100  # characters of a query that a message shows


class Blocker(NamedTuple):
    """
    A session, or a prepared transaction, that another session waits for.

    Attributes:
        pid: The process ID; 0 for a prepared transaction.
        name: The ``application_name``, or the kind of process; for a prepared
            transaction, its identifier.
        database: The name of its database.
        state: The session's state, such as ``"idle in transaction"``.
        seconds: The age of its transaction, if known.
        query: Its current or last query; empty if the role may not see it.
    """

    pid: int
    name: str
    database: str
    state: str
    seconds: float | None
    query: str

    def __str__(self) -> str:
        facts = [f'"{self.name}"']
        if self.database:
            facts.append(f"database {self.database}")
        if self.state:
            facts.append(self.state)
        if self.seconds is not None:
            facts.append(f"transaction open for {max(self.seconds, 0):.0f} s")
        text = " ".join(self.query.split())
        if len(text) > _QUERY_LENGTH:
            text = f"{text[:_QUERY_LENGTH]}…"
        who = f"process {self.pid}" if self.pid else "the prepared transaction"
        return f"{who} ({', '.join(facts)}){f': {text}' if text else ''}"

    @property
    def remedy(self) -> str:
        """The SQL that ends its transaction."""
        if self.pid:
            return f"SELECT pg_terminate_backend({self.pid});"
        name = sql.Literal(self.name).as_string()
        return f"ROLLBACK PREPARED {name}; in the database {self.database}"


SELECT_SESSION: Final[LiteralString] = """
SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'unknown'),
    coalesce(datname::text, ''), coalesce(state, ''),
    extract(epoch FROM clock_timestamp() - xact_start)::float,
    CASE WHEN query = '<insufficient privilege>' THEN '' ELSE coalesce(query, '') END
FROM pg_catalog.pg_stat_activity
"""
"""The start of a query for sessions, as rows for `Blocker`; a WHERE clause follows."""

_OF_PROCESS: LiteralString = """
WHERE pid = ANY(pg_catalog.pg_blocking_pids(%(pid)s))
UNION ALL
SELECT 0, gid, database::text, 'prepared',
    extract(epoch FROM clock_timestamp() - prepared)::float, ''
FROM pg_catalog.pg_prepared_xacts WHERE transaction IN (
    SELECT transactionid FROM pg_catalog.pg_locks
    WHERE pid = %(pid)s AND NOT granted)
ORDER BY 5 DESC NULLS LAST
"""
_BLOCKERS = SELECT_SESSION + _OF_PROCESS


def blockers(connection: Connection, pid: int) -> list[Blocker]:
    """Return what a waiting process waits for, the oldest transaction first."""
    return [Blocker(*row) for row in connection.execute(_BLOCKERS, {"pid": pid})]


_OF_TABLES: LiteralString = """
WHERE pid IN (
    SELECT held.pid FROM pg_catalog.pg_locks AS held
    WHERE held.pid <> pg_backend_pid() AND held.relation IN (
        SELECT class.oid FROM unnest(%s::text[]) AS requested(name)
        CROSS JOIN parse_ident(requested.name) AS part
        JOIN pg_catalog.pg_class AS class
            ON class.relname = part[cardinality(part)]::name
        JOIN pg_catalog.pg_namespace AS namespace
            ON namespace.oid = class.relnamespace
        WHERE CASE WHEN cardinality(part) > 1 THEN namespace.nspname = part[1]
            ELSE pg_catalog.pg_table_is_visible(class.oid) END)
    AND (%s OR held.mode NOT IN (
        'AccessShareLock', 'RowShareLock', 'RowExclusiveLock')))
ORDER BY xact_start
"""
HOLDERS: Final[LiteralString] = SELECT_SESSION + _OF_TABLES
"""
The query for the sessions with locks on tables, as rows for `Blocker`.

Its parameters are the quoted names of the tables, and whether the locks of readers and
writers count.
"""


class Watch:
    """
    Finds out, with a connection of its own, what a session waits for.

    It is called repeatedly while the session waits, such as by
    `BoundedConnection.on_wait`.

    Args:
        parameters: Connection parameters, as for `connect`.
        pid: The process ID of the session's backend.
        on_change: A callable that is called with the blockers whenever they change.

    Attributes:
        blockers: The blockers that were found last.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        pid: int,
        on_change: Callable[[list[Blocker]], object] | None = None,
    ) -> None:
        self.blockers: list[Blocker] = []
        self._parameters, self._pid, self._on_change = parameters, pid, on_change
        self._connection: Connection | None = None
        self._due = time.monotonic() + _LOOK_EVERY

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def __call__(self) -> None:
        """Look once, unless the last look was a moment ago."""
        if time.monotonic() < self._due:
            return
        try:
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._parameters, timeout=_LOOK_TIMEOUT)
            found = blockers(self._connection, self._pid)
        except (psycopg.Error, ReplicationError):
            found = []  # the server may have no connection to spare
        self._due = time.monotonic() + _LOOK_EVERY
        if not found:
            return
        has_changed = {b[:2] for b in found} != {b[:2] for b in self.blockers}
        self.blockers = found
        if has_changed and self._on_change is not None:
            self._on_change(found)


_LOOK_EVERY = 0.7  # seconds; at least twice within LOCK_TIMEOUT
_LOOK_TIMEOUT = 2  # seconds


def execute(
    connection: BoundedConnection,
    statement: sql.Composed,
    *,
    parameters: Mapping[str, Any],
    what: str,
) -> None:
    """
    Run a statement that takes locks, with a few short attempts to get them.

    Args:
        connection: A connection in autocommit mode.
        statement: The statement.
        parameters: Connection parameters, to find out who holds the locks.
        what: A description of the statement, for the error message.

    Raises:
        LockTimeout: Another session held a conflicting lock during all attempts.
        psycopg.Error: The statement failed.
    """
    pid = connection.info.backend_pid
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'".encode())
    try:
        with Watch(parameters, pid) as watch:
            connection.on_wait = watch
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    connection.execute(statement)
                    return
                except errors.LockNotAvailable as error:
                    if attempt == ATTEMPTS:
                        raise lock_timeout(what, watch.blockers) from error
                time.sleep(PAUSE)
    finally:
        connection.on_wait = None
        if not connection.closed:
            connection.execute("RESET lock_timeout")


def lock_timeout(what: str, found: Iterable[Blocker]) -> LockTimeout:
    """
    Return the error for a statement that did not get its lock.

    Args:
        what: A description of the statement.
        found: The sessions that hold the lock.
    """
    found = list(found)
    holders = "; ".join(map(str, found)) or "an unknown session"
    remedies = " ".join(blocker.remedy for blocker in found)
    end = f", or end it ({remedies})" if remedies else ""
    return LockTimeout(
        f"Could not {what}: in {ATTEMPTS} attempts of {LOCK_TIMEOUT:g} s each, the lock"
        f" was not available. It is held by {holders}.",
        hint=f"Wait until the other transaction has ended{end}. Then run this again.",
    )
