"""
The replication stream of a connection.

Source: PostgreSQL, "Streaming Replication Protocol"; libpq, "COPY Functions".
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NoReturn

import psycopg
from psycopg import errors, sql
from psycopg.errors import Diagnostic
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq import abc as pq

from walex_django.pgoutput import copydata
from walex_django.pgoutput.lsn import Lsn

from . import synchronous
from .connection import connect, one_line, sender_name, sql_error
from .decoding import stream_error, unpublished_change
from .errors import (
    ConnectionLost,
    ReplicationError,
    SlotMissing,
    SlotUnusable,
)
from .progress import Progress


def plugin_options(publications: Sequence[str]) -> dict[str, str]:
    """Return the options of pgoutput for a stream of these publications."""
    names = ",".join(sql.Identifier(name).as_string() for name in publications)
    return {"proto_version": "1", "publication_names": names, "messages": "true"}


class ReplicationConnection:
    """
    A replication connection that reads one stream.

    Only one thread may call `receive`; any thread may call `send_progress`,
    `wake` and `release`. A lock is held during calls of libpq, but never while waiting.

    Args:
        parameters: Connection parameters, as for `connect`.
        slot: The name of the slot to read from after `start`.

    Attributes:
        sql: The psycopg connection, which accepts SQL while not streaming.
        backend_pid: The process ID of the walsender; 0 before `start`.
        application: The ``application_name`` of the walsender; empty before `start`.
        is_waiting: Whether a thread is in `wait`.

    Raises:
        CannotConnect: The server is unavailable or rejects the connection.
    """

    def __init__(self, parameters: Mapping[str, Any], *, slot: str) -> None:
        self.slot = slot
        self.backend_pid = 0
        self.application = ""
        self.is_waiting = False
        self.sql = connect(parameters, replication=True, name=sender_name(slot))
        self._pgconn: pq.PGconn = self.sql.pgconn
        self._streaming = False
        self._ended = False
        self._released: ReplicationError | None = None
        self._batch: list[bytes] = []
        self._gap: ReplicationError | None = None
        self._gap_at = 0  # index in the batch
        self.sql.add_notice_handler(self._notice)
        # A TLS record holds up to 16 kB, and libpq reads at least 8 kB at a time. The
        # rest remains in OpenSSL's buffer, where a selector doesn't notice it.
        self._reads = range(3 if self._pgconn.ssl_in_use else 1)
        self._lock = Lock()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)

    def identify(self) -> tuple[int, int]:
        """
        Return the server's system identifier and its timeline.

        Raises:
            ReplicationError: The server rejected the command or is unavailable.
        """
        (row,) = self._query("IDENTIFY_SYSTEM")
        return int(row[0]), int(row[1])

    def timeline_forks(self, timeline: int) -> dict[int, Lsn]:
        """
        Return the positions at which a timeline's ancestors ended.

        Args:
            timeline: The server's timeline.

        Returns:
            For each ancestor timeline, the position where the next one branched off.

        Raises:
            ReplicationError: The server rejected the command or is unavailable.
        """
        if timeline == 1:
            return {}
        ((_, content),) = self._query(f"TIMELINE_HISTORY {timeline}")
        lines = str(content).splitlines()
        forks = [line.split() for line in lines if line and line[0].isdigit()]
        return {int(parent): Lsn.parse(lsn) for parent, lsn, *_ in forks}

    def _query(self, command: str) -> list[tuple[Any, ...]]:
        try:
            return self.sql.execute(command.encode()).fetchall()
        except psycopg.Error as error:
            raise sql_error(error, slot=self.slot) from error

    def start(self, publications: Sequence[str]) -> None:
        """
        Start streaming at the slot's position, including logical messages.

        Args:
            publications: The names of the publications.

        Raises:
            SlotMissing, SlotInUse, SlotUnusable: The slot can't be read.
            NotPrepared: The walsender would be a synchronous standby.
            ReplicationError: The server rejected the command for another reason.
        """
        # libpq's backend PID may be one that a pooler made up.
        ((self.backend_pid, self.application, names, is_standby),) = self._query(
            "SELECT pg_catalog.pg_backend_pid(),"
            " pg_catalog.current_setting('application_name'),"
            " pg_catalog.current_setting('synchronous_standby_names'),"
            " pg_catalog.pg_is_in_recovery()"
        )
        if not is_standby:  # which has no synchronous standbys of its own
            synchronous.require_asynchronous(names, self.application)
        options = plugin_options(publications)
        # The grammar of replication commands has no E'' strings.
        option_list = ", ".join(
            f"{key} '{value.replace(chr(39), chr(39) * 2)}'"
            for key, value in options.items()
        )
        command = (
            f"START_REPLICATION SLOT {sql.Identifier(self.slot).as_string()}"
            f" LOGICAL 0/0 ({option_list})"
        )
        try:
            if self.sql.info.parameter_status("server_encoding") == "SQL_ASCII":
                # Bytes that aren't UTF-8 would make the server fail there each time.
                self.sql.execute("SET client_encoding TO 'SQL_ASCII'")
            self.sql.execute(command.encode())
        except psycopg.Error as error:
            raise _start_error(error, self.slot) from error
        self._pgconn.nonblocking = 1
        self._streaming = True

    def receive(self) -> list[bytes]:
        """
        Return the available CopyData payloads, without waiting.

        libpq's buffer limits the list to 16 kB, or to one larger message.

        Raises:
            ConnectionLost: The connection was lost.
            DecodingFailed: The server cannot send a change.
            ReplicationError: The server ended the stream with another error.
        """
        batch = self._batch = []
        append, pgconn = batch.append, self._pgconn
        get = pgconn.get_copy_data
        try:
            with self._lock:
                if self._released:
                    raise self._released
                if self._gap:
                    raise self._gap
                if self._ended:
                    self._raise_end()
                for _ in self._reads:
                    pgconn.consume_input()
                    while (payload := get(1))[0] > 0:
                        append(bytes(payload[1]))
                    if payload[0] < 0:
                        # The reason is raised once earlier payloads were processed.
                        self._ended = True
                        break
                if self._gap:
                    # Payloads after the gap must not be acknowledged.
                    del batch[self._gap_at :]
                elif self._ended and not batch:
                    self._raise_end()
        except psycopg.Error as error:
            raise self._released or stream_error(error, self.slot) from error
        return batch

    def wait(self, timeout: float) -> bool:
        """
        Wait until there is data to `receive`, or until `wake` is called.

        Args:
            timeout: The maximum number of seconds to wait.

        Returns:
            Whether one of these happened before the timeout.
        """
        self.is_waiting = True
        ready = self._selector.select(timeout)
        self.is_waiting = False
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
        with suppress(OSError):  # closed, or full and thus waking already
            self._wake_in.send(b"\0")

    @property
    def is_released(self) -> bool:
        """Whether `release` was called."""
        return self._released is not None

    def release(self, error: ReplicationError) -> None:
        """
        Disconnect, so that the server does not wait for this connection.

        What has arrived and was not received yet is discarded.

        Args:
            error: The reason, which the following calls of `receive` and
                `send_progress` raise. Only the first reason counts.
        """
        with self._lock, suppress(psycopg.Error, OSError):
            if self._released:
                return
            self._released = error
            # Closing the connection would pull it away from the reading thread.
            handle = socket.socket(fileno=self._pgconn.socket)
            try:
                handle.shutdown(socket.SHUT_RDWR)
            finally:
                handle.detach()
        self.wake()

    def send_progress(
        self, progress: Progress, *, reply_requested: bool = False
    ) -> None:
        """
        Send a status update with the stream's position to the server.

        Args:
            progress: The stream's position. Its ``sent`` attribute is updated.
            reply_requested: Whether to request an immediate keepalive.

        Raises:
            ConnectionLost: The connection was lost.
        """
        try:
            with self._lock:
                if self._released:
                    raise self._released
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
                progress.sent = confirmed
        except psycopg.Error as error:
            raise sql_error(error, slot=self.slot) from error

    def end(self, timeout: float = 5) -> None:
        """
        End the stream gracefully.

        Once this returns, the server has received all status updates and has released
        the slot, unless the timeout expired.

        Args:
            timeout: Seconds to wait for the server to confirm the end.

        Raises:
            ConnectionLost: The connection was lost.
        """
        try:
            with self._lock:
                is_open = self._pgconn.status == ConnStatus.OK and not self._released
                if self._streaming and is_open:
                    self._end_copy(time.monotonic() + timeout)
        except psycopg.Error as error:
            raise sql_error(error, slot=self.slot) from error

    def close(self) -> None:
        """Close the connection immediately."""
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
        with self._lock:
            self.sql.close()

    def _notice(self, notice: Diagnostic) -> None:
        """
        Handle a warning that arrives between the messages of the stream.

        PostgreSQL 18 skips changes whose publication is missing, with a mere warning.
        """
        missing = notice.sqlstate == errors.ObjectNotInPrerequisiteState.sqlstate
        if self._streaming and missing and not self._gap:
            self._gap = unpublished_change(notice.message_primary or "", notice.context)
            self._gap_at = len(self._batch)

    def _raise_end(self) -> NoReturn:
        """Raise the server's error, after which the connection accepts SQL again."""
        failure = None
        while result := self._pgconn.get_result():
            if result.status == ExecStatus.FATAL_ERROR:
                failure = failure or errors.error_from_result(result)
        self._streaming = False
        raise failure or ConnectionLost(
            "The connection to PostgreSQL was lost: the server ended the stream."
        )

    def _end_copy(self, deadline: float) -> None:
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
                # Rows still in transit were not acknowledged; the server resends them.
                copying = size > 0
            # The slot is free once the server reports the command as complete.
            while not (copying or pgconn.is_busy()):
                if pgconn.get_result() is None:
                    return


def _start_error(error: psycopg.Error, slot: str) -> ReplicationError:
    """Return the exception for a failed START_REPLICATION."""
    if isinstance(error, errors.UndefinedObject):
        return SlotMissing(
            f'The slot "{slot}" does not exist.',
            hint="Run: python manage.py walex_setup",
        )
    if isinstance(error, errors.ObjectNotInPrerequisiteState):
        return SlotUnusable(f'The slot "{slot}" cannot be read: {one_line(error)}.')
    return sql_error(error, slot=slot)
