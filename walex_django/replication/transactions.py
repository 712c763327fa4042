"""Running transactions that a change of a publication has to wait for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import LiteralString

from . import catalog
from .connection import Connection
from .locks import SELECT_SESSION, Blocker
from .publications import TableName

_POLL = 0.3  # seconds between two looks at the transactions


def wait(
    find: Callable[[], list[Blocker]],
    *,
    timeout: float = math.inf,
    on_change: Callable[[list[Blocker]], object],
) -> list[Blocker]:
    """
    Wait until no transaction is found any more.

    Args:
        find: A function that returns the transactions to wait for.
        timeout: The maximum time to wait, in seconds.
        on_change: A callable that is called with the transactions when they change.

    Returns:
        The transactions that are still running after the timeout.
    """
    deadline = time.monotonic() + timeout
    seen: set[tuple[int, str]] = set()
    while found := find():
        names = {blocker[:2] for blocker in found}
        if names - seen:
            on_change([blocker for blocker in found if blocker[:2] not in seen])
        seen = names
        if time.monotonic() >= deadline:
            return found
        time.sleep(_POLL)
    return []


def writers(connection: Connection, tables: Collection[TableName]) -> list[str]:
    """
    Return the virtual IDs of the transactions that have written to tables.

    A transaction keeps its lock on a table until it ends.
    """
    names = [[table.schema for table in tables], [table.name for table in tables]]
    return [id for (id,) in connection.execute(_WRITERS, names)]


_SELECT_WRITERS: LiteralString = """
, part AS (
    SELECT class.oid FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE (namespace.nspname, class.relname) IN (
        SELECT * FROM unnest(%s::text[], %s::text[]))
    UNION SELECT partition.oid FROM part JOIN partition ON partition.parent = part.oid
)
SELECT DISTINCT lock.virtualtransaction
FROM pg_catalog.pg_locks AS lock JOIN part ON part.oid = lock.relation
WHERE lock.locktype = 'relation' AND lock.granted AND lock.mode = 'RowExclusiveLock'
AND lock.database = (SELECT oid FROM pg_catalog.pg_database
    WHERE datname = current_database())
AND lock.pid IS DISTINCT FROM pg_backend_pid()
"""
_WRITERS: LiteralString = catalog.PARTITIONS + _SELECT_WRITERS


def still_running(connection: Connection, ids: Collection[str]) -> list[Blocker]:
    """Return those of some transactions that have not ended, by their virtual IDs."""
    rows = connection.execute(_STILL_RUNNING, {"ids": list(ids)})
    return [Blocker(*row) for row in rows]


_BY_ID: LiteralString = """
WHERE pid IN (
    SELECT pid FROM pg_catalog.pg_locks WHERE virtualtransaction = ANY(%(ids)s))
UNION ALL
SELECT 0, gid, database::text, 'prepared',
    extract(epoch FROM clock_timestamp() - prepared)::float, ''
FROM pg_catalog.pg_prepared_xacts
WHERE transaction IN (
    SELECT transactionid FROM pg_catalog.pg_locks
    WHERE virtualtransaction = ANY(%(ids)s) AND pid IS NULL)
ORDER BY 5 DESC NULLS LAST
"""
_STILL_RUNNING: LiteralString = SELECT_SESSION + _BY_ID


def next_id(connection: Connection) -> int:
    """Return the ID that no running or ended transaction has reached yet."""
    ((xid,),) = connection.execute(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    )
    return int(xid)


def older(connection: Connection, xid: int) -> list[Blocker]:
    """
    Return the writing transactions if any of them has an ID below ``xid``.

    A transaction is out of ``pg_stat_activity`` before it is out of the snapshots, but
    then its COMMIT is already in the WAL.
    """
    ((oldest,),) = connection.execute(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    )
    if oldest >= xid:
        return []
    return [Blocker(*row) for row in connection.execute(_WRITING)]


_ARE_WRITING: LiteralString = """
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT 0, gid, database::text, 'prepared',
    extract(epoch FROM clock_timestamp() - prepared)::float, ''
FROM pg_catalog.pg_prepared_xacts
ORDER BY 5 DESC NULLS LAST
"""
_WRITING: LiteralString = SELECT_SESSION + _ARE_WRITING
