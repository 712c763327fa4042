"""Connections to PostgreSQL, and the translation of their errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, Ping
from psycopg.waiting import Ready

from . import attempts
from .errors import (
    CannotConnect,
    ConnectionLost,
    NotPrepared,
    ReplicationError,
    SlotInUse,
)

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

T = TypeVar("T")

_TRANSACTION_TIMEOUT_VERSION = 170000

# These settings determine the text format of values in the stream, and a database or
# role can override each of them. The timeouts of a role are meant for its application:
# they would interrupt a stream or the creation of a slot. `connect` replaces
# statement_timeout, so that no statement outlives a client that has given up or died.
_PINNED = {
    "datestyle": "ISO,MDY",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "tcp_user_timeout": "0",
    # Newer servers report a missing publication with a mere warning.
    "client_min_messages": "warning",
}


ANSWER_TIMEOUT: Final = 30.0
"""The default time to wait for a response, in seconds."""

_CANCEL_TIMEOUT = 1.0  # seconds, for the cancellation and again for its result
_GRACE = 1.0  # seconds after which the server ends a statement by itself


class BoundedConnection(Connection):
    """
    A connection that doesn't wait forever for an unresponsive server.

    A statement that isn't answered in time is cancelled, and the connection closed: the
    server would otherwise continue to run it, or to wait for a lock.

    Attributes:
        answer_timeout: Seconds to wait for a response; `math.inf` for no limit.
        on_wait: A callable that is called about ten times a second during a wait.
    """

    answer_timeout: float = ANSWER_TIMEOUT
    on_wait: Callable[[], object] | None = None

    def wait(
        self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None
    ) -> T:
        """Wait as psycopg does, for at most ``timeout`` or `answer_timeout` seconds."""
        seconds = self.answer_timeout if timeout is None else timeout
        try:
            return super().wait(_bounded(gen, seconds, self.on_wait), interval)
        except NoAnswer:
            self._abandon(gen)
            raise

    @contextmanager
    def long_wait(
        self, *, seconds: float = math.inf, on_wait: Callable[[], object] | None = None
    ) -> Iterator[None]:
        """
        Allow a statement to wait for longer than `answer_timeout`.

        If this process dies meanwhile, the server notices it and ends the statement, on
        platforms where it can.

        Args:
            seconds: Seconds to wait for a response.
            on_wait: See `on_wait`.
        """
        self.execute("SET statement_timeout = 0")
        with suppress(errors.InvalidParameterValue):
            self.execute("SET client_connection_check_interval = '1s'")
        previous = self.answer_timeout
        self.answer_timeout, self.on_wait = seconds, on_wait
        try:
            yield
        finally:
            self.answer_timeout, self.on_wait = previous, None
            with suppress(psycopg.Error):  # the connection may be closed
                self.execute("RESET statement_timeout")
                self.execute("RESET client_connection_check_interval")

    def _abandon(self, gen: PQGen[Any]) -> None:
        with suppress(psycopg.Error):
            self.cancel_safe(timeout=_CANCEL_TIMEOUT)
            # A slot that was being created is dropped once the server has answered.
            super().wait(_bounded(gen, _CANCEL_TIMEOUT, None))
        self.pgconn.finish()


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time."""


def _bounded(
    gen: PQGen[T], seconds: float, on_wait: Callable[[], object] | None
) -> PQGen[T]:
    deadline = time.monotonic() + seconds
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            if ready == Ready.NONE:
                if time.monotonic() > deadline:
                    raise NoAnswer(f"no answer for {seconds:.0f} s")
                if on_wait is not None:
                    on_wait()
            awaited = gen.send(ready)
    except StopIteration as stop:
        result: T = stop.value
        return result


def parse_url(url: str) -> dict[str, Any]:
    """
    Parse a connection URL or string into parameters for `connect`.

    Raises:
        ValueError: libpq can't parse it.
    """
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq quotes the text that it can't parse, which may contain the password.
        raise ValueError(
            "is not a connection URL\nUse postgres://user:password@host:port/database."
        ) from None


def connect(
    parameters: Mapping[str, Any],
    *,
    replication: bool = False,
    name: str = "",
    timeout: int | None = None,
) -> BoundedConnection:
    """
    Connect with all settings pinned that affect the text format of values.

    Args:
        parameters: libpq's parameters, such as ``host``, ``dbname``, ``sslmode``.
        replication: Whether to open a logical replication connection. It accepts only
            simple queries, so all cursors of the connection send these.
        name: The ``application_name`` that the server shows.
        timeout: Seconds to wait for the connection, and then for each response; by
            default the values in ``parameters`` and `BoundedConnection`.

    Raises:
        CannotConnect: The server is unavailable or rejects the connection.
    """
    answer_timeout = ANSWER_TIMEOUT if timeout is None else timeout
    limit = 0 if replication else int((answer_timeout + _GRACE) * 1000)
    settings = {**_PINNED, "statement_timeout": limit}
    pinned = " ".join(f"-c {key}={value}" for key, value in settings.items())
    arguments: dict[str, Any] = {
        "fallback_application_name": name or "walex_django",
        "connect_timeout": 10,
        **parameters,
        "options": f"{parameters.get('options', '')} {pinned}".strip(),
        "client_encoding": "UTF8",
    }
    arguments.pop("replication", None)
    if timeout is not None:
        arguments["connect_timeout"] = timeout
    if replication:
        arguments["replication"] = "database"
    try:
        connection = BoundedConnection.connect(
            **arguments,
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=psycopg.ClientCursor,
        )
        if connection.info.server_version >= _TRANSACTION_TIMEOUT_VERSION:
            # Older servers reject options that they do not know. The walsender decodes
            # each transaction within one of its own, which lasts as long as it sends.
            connection.execute("SET transaction_timeout = 0")
    except psycopg.Error as error:
        raise CannotConnect(
            f"Cannot connect to PostgreSQL: {one_line(error)}.",
            hint=_connect_hint(error, replication=replication),
            passing=may_pass(arguments, error),
        ) from error
    connection.answer_timeout = answer_timeout
    return connection


def sender_name(slot: str) -> str:
    """Return the default ``application_name`` of the connection that reads a slot."""
    return f"walex_django {slot}"


def _connect_hint(error: psycopg.Error, *, replication: bool) -> str:
    if _POOLER_ERROR in str(error):
        return PAST_POOLER
    if replication:
        # An ordinary connection has just succeeded.
        return (
            "For replication connections, also check max_wal_senders and pg_hba.conf."
        )
    return (
        "Check that the server is running, and that the host, port, user, password and"
        " database name are correct."
    )


_POOLER_ERROR = "unsupported startup parameter"
PAST_POOLER = (
    "The connection passes through a pooler such as PgBouncer. Set URL in the stream's"
    " settings to the address of the PostgreSQL server itself."
)
"""The hint for a connection that ends at a pooler instead of the server."""


def may_pass(parameters: Mapping[str, Any], error: BaseException | None) -> bool:
    """
    Return whether a failed connection attempt may succeed later.

    Args:
        parameters: The parameters of the attempt, as for `connect`.
        error: psycopg's error.
    """
    if isinstance(error, errors.ConnectionTimeout):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    message = str(error)
    if "does not support SSL" in message:
        return False
    # The error has no SQLSTATE, and its text may be in any language.
    again = attempts.attempt(parameters, timeout=_AGAIN_TIMEOUT)
    if again.succeeded or again.may_succeed_later:
        return True
    if not again.sqlstates:
        # A ping recognizes a server that is absent.
        ping = PGconn.ping(make_conninfo("", **parameters).encode())
        if ping != Ping.OK:
            return True
    return any(text in message for text in _TRANSIENT_ERRORS)


_AGAIN_TIMEOUT = 10.0  # seconds

_TRANSIENT_ERRORS = (
    # In case that the attempt has shown no SQLSTATE.
    *("too many", "remaining connection slots", "max_wal_senders"),
    # libpq's own: the server doesn't satisfy target_session_attrs until it is promoted.
    *("read-only", "hot standby"),
    # The server may have become ready between the attempt and the ping.
    *("the database system is", "Connection refused"),
)


def sql_error(error: psycopg.Error, *, slot: str = "") -> ReplicationError:
    """Return the `ReplicationError` for an error of psycopg."""
    reason = one_line(error)
    if isinstance(error, errors.ObjectInUse):
        return SlotInUse(
            f'The slot "{slot}" is in use: {reason}.',
            hint="Stop the other listener, or give this stream a different SLOT_NAME.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return NotPrepared(
            f"PostgreSQL refused the command: {reason}.",
            hint="Run the SQL as a role with the necessary privileges:"
            " python manage.py walex_setup --dry-run prints the SQL.",
        )
    if isinstance(error, errors.ConfigurationLimitExceeded):
        return NotPrepared(
            f"The server has reached a configured limit: {reason}.",
            hint="Drop an unused slot (SELECT * FROM pg_replication_slots),"
            " or raise max_replication_slots and restart PostgreSQL.",
        )
    if isinstance(error, errors.QueryCanceled):
        return ConnectionLost(f"PostgreSQL canceled a statement: {reason}.")
    # Errors of libpq itself have no SQLSTATE.
    if isinstance(error, psycopg.OperationalError) or error.sqlstate is None:
        return ConnectionLost(f"The connection to PostgreSQL was lost: {reason}.")
    return ReplicationError(f"PostgreSQL reported an error: {reason}.")


def one_line(error: psycopg.Error) -> str:
    """Return an error's message on one line, without libpq's advice."""
    text = error.diag.message_primary or str(error) or type(error).__name__
    # libpq puts its advice on separate lines that start with a tab.
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    return " ".join(" ".join(lines).split()).rstrip(".")
