"""
Who makes a change, and why.

What is known of that in the process that writes becomes `Event.context` where the
change is heard of. It travels as one logical message in the transaction, so that it
needs no triggers and no settings of the session.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar, cast

import psycopg.sql
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest

from .filters import OWN_APP
from .messages import require_postgresql, to_json
from .statements import first_word, writing_word

PREFIX = f"{OWN_APP}.context"
"""Of the logical message that has the context of the changes behind it."""

_NONE = "{}"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class _Frame:
    """
    What one block knows, over what the blocks around it know.

    Attributes:
        get: gives what it knows itself.
        lasts: whether that is the same each time.
    """

    outer: _Frame | None
    get: Callable[[], dict[str, Any]]
    lasts: bool
    _text: str | None = None

    def text(self) -> str:
        """Return as JSON what all of them know."""
        if self._text is not None:
            return self._text
        text = _to_json(self._merged())
        if self._all_last():
            self._text = text
        return text

    def _merged(self) -> dict[str, Any]:
        outer = self.outer._merged() if self.outer else {}
        # What it takes to know it is not done in its own name.
        with _framed(self.outer):
            return {**outer, **self.get()}

    def _all_last(self) -> bool:
        return self.lasts and (self.outer is None or self.outer._all_last())


_current: ContextVar[_Frame | None] = ContextVar(PREFIX, default=None)


@contextmanager
def _framed(frame: _Frame | None) -> Iterator[None]:
    token = _current.set(frame)
    try:
        yield
    finally:
        _current.reset(token)


class Context:
    """What `context` returns: for ``with``, or as a decorator."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        known = partial(json.loads, self._text)
        _current.set(_Frame(_current.get(), known, lasts=True))

    def __exit__(self, *exc: object) -> None:
        frame = _current.get()
        assert frame
        _current.set(frame.outer)

    def __call__(self, function: F) -> F:
        """Return the function with this context around each of its calls."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(
            function
        ):
            raise TypeError(
                f"{function.__qualname__}() is a generator, which runs after its call"
                " has returned: write `with context(…)` inside of it."
            )
        if iscoroutinefunction(function):

            @wraps(function)
            async def inner(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def inner(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return cast("F", inner)


def context(**data: Any) -> Context:
    """
    Say who or why, for the changes made in a ``with`` block or a decorated function.

    Blocks nest: an inner one adds to the outer one, and overrides it.

    Args:
        data: what `Event.context` will have; anything that Django's JSON encoder
            takes.

    Raises:
        TypeError: it does not take the data.
    """
    return Context(_to_json(data))


def current() -> dict[str, Any] | None:
    """Return what a change that is made now would have as its context."""
    frame = _current.get()
    return None if frame is None else json.loads(frame.text())


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


class ContextMiddleware:
    """
    Attaches the user, the path and the method to what a request changes.

    A subclass says something else with `get_context`. For ``MIDDLEWARE``, at any place;
    works under WSGI and ASGI.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Pass the request on, with its context around."""
        if iscoroutinefunction(self):
            return self._acall(request)
        with _framed(self._frame(request)):
            return self.get_response(request)

    def get_context(self, request: HttpRequest) -> dict[str, Any]:
        """
        Return the context of a request's changes.

        Called before each statement that writes, in its thread, and never when nothing
        is written: the user is the one who is logged in by then.
        """
        user = getattr(request, "user", None)
        return {
            "user": getattr(user, "pk", None),
            "path": request.path,
            "method": request.method,
        }

    async def _acall(self, request: HttpRequest) -> Any:
        with _framed(self._frame(request)):
            return await self.get_response(request)

    def _frame(self, request: HttpRequest) -> _Frame:
        return _Frame(_current.get(), partial(self.get_context, request), lasts=False)


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
        if self._hooks is None and _current.get() is None:
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
            elif word not in {"CALL", "DO"} and (wanted := _wanted()) != _NONE:
                with _transaction(connection):
                    _emit(connection, wanted)
                    return execute(sql, params, many, context)
        return execute(sql, params, many, context)

    def attach(self, connection: DatabaseWrapper) -> None:
        """Write the context, unless the transaction has it."""
        self._look_for_end(connection)
        wanted = _wanted()
        if self._hooks is None:
            if wanted == _NONE:
                return
        elif self._text == wanted and (_is_atomic(connection) or wanted == _NONE):
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


def _wanted() -> str:
    frame = _current.get()
    return _NONE if frame is None else frame.text()


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


def _to_json(data: dict[str, Any]) -> str:
    try:
        return to_json(data)
    except (TypeError, ValueError) as error:
        raise TypeError(f"A context must be of JSON: {error}") from error
