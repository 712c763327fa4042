"""The execute wrapper that writes the context into transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg.sql
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError

from walex_django.messages import require_postgresql

from .frames import EMPTY, PREFIX, current_text, is_set
from .statements import first_word, writing_word


def attach(using: str | None = None) -> None:
    """
    Attach the context to the changes that follow in the current transaction.

    Call it before writes that are not recognized automatically: functions that write,
    ``cursor.callproc()`` and ``cursor.copy()``.

    Args:
        using: The database's alias in ``DATABASES``; defaults to ``"default"``.

    Raises:
        django.db.transaction.TransactionManagementError: If no transaction is open.
        django.db.NotSupportedError: If the database is not PostgreSQL.
    """
    connection = require_postgresql(using)
    if not connection.in_atomic_block:
        raise TransactionManagementError(
            "A context can only be attached inside a transaction."
            " Use transaction.atomic()."
        )
    _writer(connection).attach(connection)


def install() -> None:
    """Install the execute wrapper on all current and future connections."""
    connection_created.connect(_prepare, dispatch_uid=PREFIX)
    for connection in connections.all(initialized_only=True):
        _prepare(connection=connection)


def _prepare(*, connection: Any, **kwargs: Any) -> None:
    if isinstance(connection, DatabaseWrapper):
        _writer(connection)


def _writer(connection: DatabaseWrapper) -> _Writer:
    wrappers = connection.execute_wrappers
    for wrapper in wrappers:
        if isinstance(wrapper, _Writer):
            return wrapper
    writer = _Writer()
    # Insert at the front: the end of an execute_wrapper() block removes the last one.
    wrappers.insert(0, writer)
    return writer


class _Writer:
    """
    The execute wrapper of one connection.

    It writes the context before a statement that writes. It identifies the transaction
    by the list of its on_commit functions: Django creates a new list for each
    transaction, and when it rolls back to a savepoint.
    """

    def __init__(self) -> None:
        # The last context written in the transaction; None if it may be rolled back.
        self._text: str | None = None
        self._hooks: list[Any] | None = None
        self._rolled_back = False

    def __call__(
        self,
        execute: Callable[..., Any],
        sql: Any,
        params: Any,
        many: bool,
        context: dict[str, Any],
    ) -> Any:
        if self._hooks is None and not is_set():
            return execute(sql, params, many, context)
        connection: DatabaseWrapper = context["connection"]
        self._detect_end(connection)
        text = _text(sql, connection)
        if self._hooks is not None and first_word(text) == "ROLLBACK":
            self._rolled_back = True
        elif word := writing_word(text):
            if not connection.get_autocommit():
                self.attach(connection)
            # A procedure may commit, which fails inside a transaction started here.
            elif word not in {"CALL", "DO"} and (current := current_text()) != EMPTY:
                with _transaction(connection):
                    _emit(connection, current)
                    return execute(sql, params, many, context)
        return execute(sql, params, many, context)

    def attach(self, connection: DatabaseWrapper) -> None:
        """Write the context unless the transaction already has it."""
        self._detect_end(connection)
        current = current_text()
        if self._hooks is None:
            if current == EMPTY:
                return
        elif self._text == current and (_is_atomic(connection) or current == EMPTY):
            return
        connection.validate_no_broken_transaction()
        with connection.wrap_database_errors:
            _emit(connection, current)
        self._text, self._hooks = current, connection.run_on_commit

    def _detect_end(self, connection: DatabaseWrapper) -> None:
        """Reset the state after a rollback or the end of the transaction."""
        hooks = connection.run_on_commit
        if self._rolled_back:
            self._rolled_back = False
            self._text, self._hooks = None, hooks
        elif self._hooks is not hooks:
            self._text = self._hooks = None


def _is_atomic(connection: DatabaseWrapper) -> bool:
    """Return whether Django replaces `run_on_commit` when the transaction ends."""
    return connection.in_atomic_block and connection.commit_on_exit


@contextmanager
def _transaction(connection: DatabaseWrapper) -> Iterator[None]:
    """Run one statement in a transaction of the driver, not of Django."""
    assert connection.connection
    with connection.wrap_database_errors, connection.connection.transaction():
        yield


def _emit(connection: DatabaseWrapper, text: str) -> None:
    # Bypass Django's cursor: applications may count or log their own queries.
    assert connection.connection
    connection.connection.execute(
        "SELECT pg_logical_emit_message(true, %s, %s::text)", [PREFIX, text]
    )


def _text(sql: Any, connection: DatabaseWrapper) -> str:
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    return psycopg.sql.as_string(sql, connection.connection)
