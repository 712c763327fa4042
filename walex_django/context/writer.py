"""Writes the context into the transactions of Django's connections."""

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
    Attach the context to what follows in the current transaction.

    For what is not recognised as writing: functions that write, ``cursor.callproc()``
    and ``cursor.copy()``.

    Args:
        using: alias in ``DATABASES``, by default ``default``.

    Raises:
        django.db.transaction.TransactionManagementError: there is no transaction.
        django.db.NotSupportedError: the database is not PostgreSQL.
    """
    connection = require_postgresql(using)
    if not connection.in_atomic_block:
        raise TransactionManagementError(
            "Outside of a transaction there is nothing to attach a context to."
            " Use transaction.atomic()."
        )
    _writer(connection).attach(connection)


def install() -> None:
    """Attach the context to what Django's connections to PostgreSQL write."""
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
    # At the front: who is in a block of execute_wrapper() takes off the last one.
    wrappers.insert(0, writer)
    return writer


class _Writer:
    """
    The execute wrapper of one connection: writes the context before what writes.

    It knows the transaction by the list of its on_commit functions. Django makes a new
    one with each transaction, and when it rolls back to a savepoint.
    """

    def __init__(self) -> None:
        # Of the last message in the transaction; None where it may have been undone.
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
        self._look_for_end(connection)
        text = _text(sql, connection)
        if self._hooks is not None and first_word(text) == "ROLLBACK":
            self._rolled_back = True
        elif word := writing_word(text):
            if not connection.get_autocommit():
                self.attach(connection)
            # A procedure may commit, which it cannot do in a transaction of ours.
            elif word not in {"CALL", "DO"} and (wanted := current_text()) != EMPTY:
                with _transaction(connection):
                    _emit(connection, wanted)
                    return execute(sql, params, many, context)
        return execute(sql, params, many, context)

    def attach(self, connection: DatabaseWrapper) -> None:
        """Write the context, unless the transaction has it."""
        self._look_for_end(connection)
        wanted = current_text()
        if self._hooks is None:
            if wanted == EMPTY:
                return
        elif self._text == wanted and (_is_atomic(connection) or wanted == EMPTY):
            return
        connection.validate_no_broken_transaction()
        with connection.wrap_database_errors:
            _emit(connection, wanted)
        self._text, self._hooks = wanted, connection.run_on_commit

    def _look_for_end(self, connection: DatabaseWrapper) -> None:
        """Forget what was written if it is no more, or of another transaction."""
        hooks = connection.run_on_commit
        if self._rolled_back:
            self._rolled_back = False
            self._text, self._hooks = None, hooks
        elif self._hooks is not hooks:
            self._text = self._hooks = None


def _is_atomic(connection: DatabaseWrapper) -> bool:
    """Return whether Django will tell of the transaction's end."""
    return connection.in_atomic_block and connection.commit_on_exit


@contextmanager
def _transaction(connection: DatabaseWrapper) -> Iterator[None]:
    """A transaction for one statement of which Django need not know."""
    assert connection.connection
    with connection.wrap_database_errors, connection.connection.transaction():
        yield


def _emit(connection: DatabaseWrapper, text: str) -> None:
    # By the driver: it is no query of the application, which may count its own.
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
