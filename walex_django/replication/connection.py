"""Connections to PostgreSQL, and what goes wrong on them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, Ping
from psycopg.waiting import Ready

from .errors import (
    CannotConnect,
    ConnectionLost,
    NotPrepared,
    ReplicationError,
    SlotInUse,
)

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

T = TypeVar("T")

# Text in the stream is shaped by these, and a database or role may set each of them.
# The timeouts would cut off the creation of a slot, which waits for running writers.
_PINNED = {
    "datestyle": "ISO,MDY",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # Of a missing publication newer servers only warn.
    "client_min_messages": "warning",
}


class BoundedConnection(Connection):
    """
    A connection that does not wait for ever for a server that fell silent.

    Attributes:
        answer_timeout: seconds to wait for an answer, `math.inf` without end.
    """

    answer_timeout: float = 30

    def wait(
        self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None
    ) -> T:
        """Do what psycopg does, for `answer_timeout` or ``timeout`` seconds at most."""
        seconds = self.answer_timeout if timeout is None else timeout
        return super().wait(_bounded(gen, seconds), interval)


def _bounded(gen: PQGen[T], seconds: float) -> PQGen[T]:
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready == Ready.NONE and time.monotonic() > deadline:
                raise psycopg.OperationalError(f"no answer for {seconds:.0f} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def parse_url(url: str) -> dict[str, Any]:
    """
    Turn a connection URL or string into parameters for `connect`.

    Raises:
        ValueError: libpq cannot read it.
    """
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # What libpq says quotes the text that it could not read: perhaps the password.
        raise ValueError(
            "is not a connection URL\nWrite postgres://user:password@host:port/database."
        ) from None


def connect(
    parameters: Mapping[str, Any],
    *,
    replication: bool = False,
    name: str = "",
    timeout: int | None = None,
) -> BoundedConnection:
    """
    Connect with every setting pinned that shapes the text of values.

    Args:
        parameters: of libpq, such as ``host``, ``dbname``, ``sslmode``.
        replication: make it a connection for logical replication, which understands
            simple queries only; so does every cursor of the connection then send.
        name: what the server shows as ``application_name``.
        timeout: seconds to wait for the server, and then for each answer; by default
            as long as ``parameters`` and `BoundedConnection` say.

    Raises:
        CannotConnect: no server there, or it refused.
    """
    pinned = " ".join(f"-c {key}={value}" for key, value in _PINNED.items())
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
    except psycopg.Error as error:
        raise CannotConnect(
            f"Cannot connect to PostgreSQL: {one_line(error)}.",
            hint=_connect_hint(error, replication=replication),
            passing=may_pass(arguments, error),
        ) from error
    if timeout is not None:
        connection.answer_timeout = timeout
    return connection


def _connect_hint(error: psycopg.Error, *, replication: bool) -> str:
    if _OF_POOLERS in str(error):
        return PAST_POOLER
    if replication:
        # An ordinary connection was made just before.
        return "For replication, look at max_wal_senders and at pg_hba.conf too."
    return (
        "Check that the server runs, and host, port, user, password and name of the"
        " database."
    )


_OF_POOLERS = "unsupported startup parameter"
PAST_POOLER = (
    "A pooler such as PgBouncer is in the way: set URL in the stream's settings to the"
    " server itself."
)
"""What to do about what stands between us and the server."""


def may_pass(parameters: Mapping[str, Any], error: BaseException | None) -> bool:
    """
    Return whether a connection that could not be made may be made later.

    Args:
        parameters: those of `connect` that it was to have.
        error: psycopg's.
    """
    if isinstance(error, errors.ConnectionTimeout):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    # At connect libpq gives no SQLSTATE, but it knows a server that is absent, starting
    # or stopping. One that is there has refused us; of a lack of room only words tell.
    ping = PGconn.ping(make_conninfo("", **parameters).encode())
    said = str(error)
    if "does not support SSL" in said:
        return False
    return ping != Ping.OK or any(each in said for each in _PASSING)


_PASSING = (
    *("too many", "remaining connection slots", "max_wal_senders"),
    # Of a server that target_session_attrs does not want, until it is promoted.
    *("read-only", "hot standby"),
)


def sql_error(error: psycopg.Error, *, slot: str = "") -> ReplicationError:
    """Return the error of ours for one that the server reported."""
    reason = one_line(error)
    if isinstance(error, errors.ObjectInUse):
        return SlotInUse(
            f'The slot "{slot}" is in use: {reason}.',
            hint="Stop the other listener, or give this stream a SLOT_NAME of its own.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return NotPrepared(
            f"PostgreSQL refused: {reason}.",
            hint="Let a role do it that may: python manage.py walex_setup --dry-run"
            " prints the SQL.",
        )
    if isinstance(error, errors.ConfigurationLimitExceeded):
        return NotPrepared(
            f"The server has none to spare: {reason}.",
            hint="Drop a slot that nobody reads (SELECT * FROM pg_replication_slots),"
            " or raise max_replication_slots and restart PostgreSQL.",
        )
    # What libpq itself reports has no state.
    if isinstance(error, psycopg.OperationalError) or error.sqlstate is None:
        return ConnectionLost(f"The connection to PostgreSQL was lost: {reason}.")
    return ReplicationError(f"PostgreSQL reported: {reason}.")


def one_line(error: psycopg.Error) -> str:
    """Return what an error says, without libpq's advice."""
    text = error.diag.message_primary or str(error) or type(error).__name__
    # libpq's advice stands on lines of its own, after a tab.
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    return " ".join(" ".join(lines).split()).rstrip(".")
