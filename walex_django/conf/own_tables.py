"""Transactions for walex_django's own statements, which give up waiting soon."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, LiteralString

from django.apps import apps
from django.db import Error as DatabaseError
from django.db import InternalError, connections, transaction
from psycopg.errors import LockNotAvailable, QueryCanceled

from walex_django.replication.errors import TableLocked
from walex_django.replication.locks import SELECT_SESSION, Blocker
from walex_django.subscriptions import OWN_APP

STATEMENT_TIMEOUT: Final = 5.0
"""The default time limit of a statement in `own_transaction`, in seconds."""

LOCK_TIMEOUT: Final = 3.0
"""The longest wait for a lock in `own_transaction`, in seconds."""

SET_LOCK_TIMEOUT: LiteralString = "SET LOCAL lock_timeout = '3s'"
"""Limits the wait for each lock until the current transaction ends."""


@contextmanager
def own_transaction(
    *aliases: str, seconds: float = STATEMENT_TIMEOUT
) -> Iterator[None]:
    """
    Run a block of walex_django's own statements in a transaction.

    PostgreSQL limits the duration of each statement and its wait for a lock, even if
    this process has died meanwhile. Shorter timeouts of the role or database are kept.
    COMMIT does not wait for synchronous standbys.

    Inside another transaction the block is a savepoint: its timeouts are restored after
    the block, and its ``synchronous_commit`` applies.

    Args:
        aliases: The aliases of the databases in ``DATABASES``.
        seconds: The maximum duration of a statement.

    Raises:
        django.db.OperationalError: If a statement or its wait for a lock takes longer.
    """
    with ExitStack() as stack:
        for alias in sorted(set(aliases)):
            stack.enter_context(_limited(alias, seconds))
        yield


@contextmanager
def _limited(alias: str, seconds: float) -> Iterator[None]:
    connection = connections[alias]
    is_outermost = not connection.in_atomic_block
    with transaction.atomic(using=alias):
        if connection.vendor != "postgresql":
            yield
            return
        # A wait for a lock has to end first: only its error names the cause.
        lock = min(LOCK_TIMEOUT, seconds * _LOCK_SHARE)
        names = [*_TIMEOUTS, *(["synchronous_commit"] if is_outermost else [])]
        limits = [math.ceil(limit * 1000) for limit in (lock, seconds)]
        rows = _execute(alias, _SET, [*limits, names])
        previous = {name: setting for name, setting, _ in rows}
        yield
        if not is_outermost:
            # If the block fails, the rollback restores them.
            with suppress(InternalError):
                _execute(alias, _RESTORE, [previous[name] for name in _TIMEOUTS])


_TIMEOUTS = ("lock_timeout", "statement_timeout")
_LOCK_SHARE = 0.75  # of the time limit of a statement

# "off" waits for even less than "local".
_SET = """
SELECT name, setting, pg_catalog.set_config(name, CASE name
    WHEN 'synchronous_commit' THEN CASE setting WHEN 'off' THEN 'off' ELSE 'local' END
    ELSE least(nullif(setting::bigint, 0),
        CASE name WHEN 'lock_timeout' THEN %s ELSE %s END)::text
    END, true)
FROM pg_catalog.pg_settings WHERE name = ANY(%s)
"""
_RESTORE = """
SELECT pg_catalog.set_config('lock_timeout', %s, true),
    pg_catalog.set_config('statement_timeout', %s, true)
"""


def has_timed_out(error: DatabaseError) -> bool:
    """Return whether a statement or its wait for a lock took too long."""
    return isinstance(error.__cause__, LockNotAvailable | QueryCanceled)


def locked_error(error: LockNotAvailable, alias: str) -> TableLocked:
    """
    Return the error that names the transactions that were waited for.

    Args:
        error: The error of the statement that waited, which has been rolled back.
        alias: The alias of the database.
    """
    models = apps.get_app_config(OWN_APP).get_models()
    tables = [model._meta.db_table for model in models]
    # For a locked row, the server names the table.
    context = error.diag.context or ""
    what, modes = "a table of walex_django", _TABLE_LOCKS
    if named := [table for table in tables if f'"{table}"' in context]:
        tables, what, modes = named, f"a row of {named[0]}", _ROW_LOCKS
    blockers: list[Blocker] = []
    with suppress(DatabaseError):
        rows = _execute(alias, _HOLDERS, [tables, modes])
        # A query may contain values that must not be logged or stored.
        blockers = [Blocker(*row)._replace(query="") for row in rows]
    reason = f"Another transaction has locked {what} in the database {alias!r}"
    if not blockers:
        return TableLocked(f"{reason}.")
    remedies = " ".join(blocker.remedy for blocker in blockers)
    return TableLocked(
        f"{reason}: {'; '.join(map(str, blockers))}.",
        hint=f"Commit it, or end it: {remedies}",
    )


def _execute(
    alias: str, statement: str, parameters: list[Any]
) -> list[tuple[Any, ...]]:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


_TABLE_LOCKS = [
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
]
# A transaction that has changed or locked a row holds a lock on the table, too.
_ROW_LOCKS = ["RowShareLock", "RowExclusiveLock", *_TABLE_LOCKS]

# The transaction waited for is older than the wait. Its age is NULL without the right
# to see it.
_HOLDERS = f"""
{SELECT_SESSION} WHERE pid IN (
    SELECT lock.pid FROM pg_catalog.pg_locks AS lock
    JOIN pg_catalog.pg_class AS class ON class.oid = lock.relation
    JOIN pg_catalog.pg_database AS database ON database.oid = lock.database
    WHERE class.relname = ANY(%s) AND lock.mode = ANY(%s)
    AND database.datname = current_database() AND lock.pid <> pg_backend_pid())
AND coalesce(xact_start < clock_timestamp() - interval '1 s', true)
ORDER BY 5 DESC NULLS LAST, 1 LIMIT 3
"""  # noqa: S608 - constants
