"""
Connections to PostgreSQL, and the replication stream on one of them.

Source: PostgreSQL, "Streaming Replication Protocol"; libpq, "COPY Functions".
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NoReturn, TypeAlias

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ConnStatus, ExecStatus, PGconn, Ping
from psycopg.pq import abc as pq

from walex_django.pgoutput import copydata

from .errors import (
    CannotConnect,
    ConnectionLost,
    NotPrepared,
    PublicationMissing,
    ReplicationError,
    SlotInUse,
    SlotMissing,
    SlotUnusable,
)
from .progress import Progress

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

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
}


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
    parameters: Mapping[str, Any], *, replication: bool = False, name: str = ""
) -> Connection:
    """
    Connect with every setting pinned that shapes the text of values.

    Args:
        parameters: of libpq, such as ``host``, ``dbname``, ``sslmode``.
        replication: make it a connection for logical replication, which understands
            simple queries only; so does every cursor of the connection then send.
        name: what the server shows as ``application_name``.

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
    if replication:
        arguments["replication"] = "database"
    try:
        return psycopg.connect(
            **arguments,
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=psycopg.ClientCursor,
        )
    except psycopg.Error as error:
        hint = (
            # An ordinary connection was made just before.
            "For replication, look at max_wal_senders and at pg_hba.conf too."
            if replication
            else "Check that the server runs, and host, port, user, password and name"
            " of the database."
        )
        raise CannotConnect(
            f"Cannot connect to PostgreSQL: {_one_line(error)}.",
            hint=hint,
            passing=_may_pass(arguments, error),
        ) from error


def _may_pass(arguments: Mapping[str, Any], error: psycopg.Error) -> bool:
    """Return whether a connection that failed may succeed later."""
    if isinstance(error, errors.ConnectionTimeout):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    # At connect libpq gives no SQLSTATE, but it knows a server that is absent, starting
    # or stopping. One that is there has refused us; of a lack of room only words tell.
    ping = PGconn.ping(make_conninfo("", **arguments).encode())
    words = ("too many", "remaining connection slots")
    return ping != Ping.OK or any(each in str(error) for each in words)


def sql_error(error: psycopg.Error, *, slot: str = "") -> ReplicationError:
    """Return the error of ours for one that the server reported."""
    reason = _one_line(error)
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


def _start_error(error: psycopg.Error, slot: str) -> ReplicationError:
    """Return the error for a START_REPLICATION that failed."""
    if isinstance(error, errors.UndefinedObject):
        return SlotMissing(
            f'The slot "{slot}" does not exist.',
            hint="Run: python manage.py walex_setup",
        )
    if isinstance(error, errors.ObjectNotInPrerequisiteState):
        return SlotUnusable(f'The slot "{slot}" cannot be read: {_one_line(error)}.')
    return sql_error(error, slot=slot)


def _stream_error(error: psycopg.Error, slot: str) -> ReplicationError:
    """Return the error for a stream that the server ended."""
    # Of what pgoutput looks up by name, only publications can be missing.
    if isinstance(error, errors.UndefinedObject):
        return PublicationMissing(
            f"A change was made while its publication was missing: {_one_line(error)}.",
            hint="The slot cannot pass that position. Run: python manage.py"
            " walex_teardown && python manage.py walex_setup (changes from there on"
            " until then are not delivered)",
        )
    return sql_error(error, slot=slot)


class ReplicationConnection:
    """
    One replication stream.

    Args:
        parameters: as for `connect`.
        slot: name of the slot that it reads, once `start` was called.

    `receive` belongs to one thread. `send_progress` and `wake` may be called by any:
    a lock is held around the calls of libpq, never while waiting.

    Raises:
        CannotConnect: no server there, or it refused.
    """

    def __init__(self, parameters: Mapping[str, Any], *, slot: str) -> None:
        self.slot = slot
        self.sql = connect(parameters, replication=True, name=f"walex_django {slot}")
        self._pgconn: pq.PGconn = self.sql.pgconn
        self._streaming = False
        self._ended = False
        # A TLS record holds up to 16 kB and libpq takes at least 8 kB at a time; what
        # it leaves behind is in OpenSSL's hands, where no selector sees it.
        self._reads = range(3 if self._pgconn.ssl_in_use else 1)
        self._lock = Lock()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)

    def start(self, publications: Sequence[str], *, messages: bool = False) -> None:
        """
        Start to stream, from where the slot is.

        Args:
            publications: their names.
            messages: send logical messages too.

        Raises:
            SlotMissing, SlotInUse, SlotUnusable: the slot does not serve.
            ReplicationError: the server refused for another reason.
        """
        names = ",".join(sql.Identifier(name).as_string() for name in publications)
        options = {"proto_version": "1", "publication_names": names}
        if messages:
            options["messages"] = "true"
        # The grammar of replication commands knows no E'' strings.
        listed = ", ".join(
            f"{key} '{value.replace(chr(39), chr(39) * 2)}'"
            for key, value in options.items()
        )
        command = (
            f"START_REPLICATION SLOT {sql.Identifier(self.slot).as_string()}"
            f" LOGICAL 0/0 ({listed})"
        )
        try:
            self.sql.execute(command.encode())
        except psycopg.Error as error:
            raise _start_error(error, self.slot) from error
        self._pgconn.nonblocking = 1
        self._streaming = True

    def receive(self) -> list[bytes]:
        """
        Return the CopyData payloads at hand, without waiting.

        What libpq has buffered bounds the list: 16 kB, or one message that is larger.

        Raises:
            ConnectionLost: the connection broke.
            ReplicationError: the server ended the stream and said why.
        """
        batch: list[bytes] = []
        append, pgconn = batch.append, self._pgconn
        get = pgconn.get_copy_data
        try:
            with self._lock:
                if self._ended:
                    self._raise_end()
                for _ in self._reads:
                    pgconn.consume_input()
                    while (got := get(1))[0] > 0:
                        append(bytes(got[1]))
                    if got[0] < 0:
                        # Why, is told when what came before it has been handled.
                        self._ended = True
                        break
                if self._ended and not batch:
                    self._raise_end()
        except psycopg.Error as error:
            raise _stream_error(error, self.slot) from error
        return batch

    def wait(self, timeout: float) -> bool:
        """
        Wait until there is something to `receive`, or until `wake`.

        Args:
            timeout: seconds to wait at most.

        Returns whether something came.
        """
        ready = self._selector.select(timeout)
        for key, _ in ready:
            if key.fileobj is self._wake_out:
                self._wake_out.recv(4096)
        return bool(ready)

    @property
    def is_streaming(self) -> bool:
        """Whether the stream has started and the server has not ended it."""
        return self._streaming

    def wake(self) -> None:
        """Make a `wait` in another thread return."""
        with suppress(OSError):  # closed, or so full that it wakes anyway
            self._wake_in.send(b"\0")

    def send_progress(
        self, progress: Progress, *, reply_requested: bool = False
    ) -> None:
        """
        Tell the server our position.

        Args:
            progress: learns what was told.
            reply_requested: ask for a keepalive at once.

        Raises:
            ConnectionLost: the connection broke.
        """
        try:
            with self._lock:
                if self._ended:
                    return
                confirmed = progress.confirmed
                self._pgconn.put_copy_data(
                    copydata.status_update(
                        received=progress.received,
                        confirmed=confirmed,
                        reply_requested=reply_requested,
                    )
                )
                self._pgconn.flush()
                progress.told = confirmed
        except psycopg.Error as error:
            raise sql_error(error, slot=self.slot) from error

    def end(self, timeout: float = 5) -> None:
        """
        End the stream in order.

        All that was sent then has reached the server, and the slot is free.

        Args:
            timeout: seconds to wait for the server's goodbye.

        Raises:
            ConnectionLost: the connection broke.
        """
        try:
            with self._lock:
                if self._streaming and self._pgconn.status == ConnStatus.OK:
                    self._say_goodbye(time.monotonic() + timeout)
        except psycopg.Error as error:
            raise sql_error(error, slot=self.slot) from error

    def close(self) -> None:
        """Close the connection, at once."""
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
        self.sql.close()

    def _raise_end(self) -> NoReturn:
        """Raise the server's reason; after an error the connection takes SQL again."""
        failure = None
        while result := self._pgconn.get_result():
            if result.status == ExecStatus.FATAL_ERROR:
                failure = failure or errors.error_from_result(result)
        self._streaming = False
        raise failure or ConnectionLost(
            "The connection to PostgreSQL was lost: the server ended the stream."
        )

    def _say_goodbye(self, deadline: float) -> None:
        pgconn = self._pgconn
        pgconn.put_copy_end()
        copying = True
        while time.monotonic() < deadline:
            unsent = pgconn.flush()
            events = selectors.EVENT_READ | (unsent and selectors.EVENT_WRITE)
            self._selector.modify(pgconn.socket, events)
            self._selector.select(max(0, deadline - time.monotonic()))
            pgconn.consume_input()
            while copying and (size := pgconn.get_copy_data(1)[0]):
                # Rows still on their way were not acknowledged: they come again.
                copying = size > 0
            # The slot is free when the server says that the command is complete.
            while not (copying or pgconn.is_busy()):
                if pgconn.get_result() is None:
                    return


def _one_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error) or type(error).__name__
    # libpq's advice stands on lines of its own, after a tab.
    lines = [line for line in text.splitlines() if not line.startswith("\t")]
    return " ".join(" ".join(lines).split()).rstrip(".")
