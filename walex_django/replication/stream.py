"""
The replication stream on a connection.

Source: PostgreSQL, "Streaming Replication Protocol"; libpq, "COPY Functions".
"""

from __future__ import annotations

import re
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

from .connection import connect, one_line, sql_error
from .errors import (
    ConnectionLost,
    PublicationMissing,
    ReplicationError,
    SlotMissing,
    SlotUnusable,
)
from .progress import Progress
from .slots import RECREATE


class ReplicationConnection:
    """
    One replication stream.

    Args:
        parameters: as for `connect`.
        slot: name of the slot that it reads, once `start` was called.

    `receive` belongs to one thread. `send_progress` and `wake` may be called by any:
    a lock is held around the calls of libpq, never while waiting.

    Attributes:
        backend_pid: of the server's process, once `start` was called.

    Raises:
        CannotConnect: no server there, or it refused.
    """

    def __init__(self, parameters: Mapping[str, Any], *, slot: str) -> None:
        self.slot = slot
        self.backend_pid = 0
        self.sql = connect(parameters, replication=True, name=f"walex_django {slot}")
        self._pgconn: pq.PGconn = self.sql.pgconn
        self._streaming = False
        self._ended = False
        self._batch: list[bytes] = []
        self._hole: ReplicationError | None = None
        self._hole_at = 0  # place in the batch
        self.sql.add_notice_handler(self._notice)
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

    def identify(self) -> tuple[int, int]:
        """
        Return the server's system identifier and its timeline.

        Raises:
            ReplicationError: the server refused, or is not there.
        """
        (row,) = self._ask("IDENTIFY_SYSTEM")
        return int(row[0]), int(row[1])

    def timeline_forks(self, timeline: int) -> dict[int, Lsn]:
        """
        Return where a timeline left each of those that it stems from.

        Args:
            timeline: the server's.

        Raises:
            ReplicationError: the server refused, or is not there.
        """
        if timeline == 1:
            return {}
        ((_, content),) = self._ask(f"TIMELINE_HISTORY {timeline}")
        lines = str(content).splitlines()
        forks = [line.split() for line in lines if line and line[0].isdigit()]
        return {int(parent): Lsn.parse(lsn) for parent, lsn, *_ in forks}

    def _ask(self, command: str) -> list[tuple[Any, ...]]:
        try:
            return self.sql.execute(command.encode()).fetchall()
        except psycopg.Error as error:
            raise sql_error(error, slot=self.slot) from error

    def start(self, publications: Sequence[str]) -> None:
        """
        Start to stream, from where the slot is; logical messages are sent too.

        Args:
            publications: their names.

        Raises:
            SlotMissing, SlotInUse, SlotUnusable: the slot does not serve.
            ReplicationError: the server refused for another reason.
        """
        # libpq's own may be one that a pooler has made up.
        ((self.backend_pid,),) = self._ask("SELECT pg_catalog.pg_backend_pid()")
        names = ",".join(sql.Identifier(name).as_string() for name in publications)
        options = {
            "proto_version": "1",
            "publication_names": names,
            "messages": "true",
        }
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
            if self.sql.info.parameter_status("server_encoding") == "SQL_ASCII":
                # The bytes may be no UTF-8, and the server would stop at them for ever.
                self.sql.execute("SET client_encoding TO 'SQL_ASCII'")
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
        batch = self._batch = []
        append, pgconn = batch.append, self._pgconn
        get = pgconn.get_copy_data
        try:
            with self._lock:
                if self._hole:
                    raise self._hole
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
                if self._hole:
                    # What follows must not be acknowledged: it lies behind the hole.
                    del batch[self._hole_at :]
                elif self._ended and not batch:
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
                progress.sent = confirmed
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

    def _notice(self, notice: Diagnostic) -> None:
        """
        Take in what the server warns of, between the messages of the stream.

        PostgreSQL 18 passes over changes whose publication is missing, and only warns.
        """
        missing = notice.sqlstate == errors.ObjectNotInPrerequisiteState.sqlstate
        if self._streaming and missing and not self._hole:
            self._hole = _hole_error(notice.message_primary or "", notice.context)
            self._hole_at = len(self._batch)

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


def _start_error(error: psycopg.Error, slot: str) -> ReplicationError:
    """Return the error for a START_REPLICATION that failed."""
    if isinstance(error, errors.UndefinedObject):
        return SlotMissing(
            f'The slot "{slot}" does not exist.',
            hint="Run: python manage.py walex_setup",
        )
    if isinstance(error, errors.ObjectNotInPrerequisiteState):
        return SlotUnusable(f'The slot "{slot}" cannot be read: {one_line(error)}.')
    return sql_error(error, slot=slot)


def _stream_error(error: psycopg.Error, slot: str) -> ReplicationError:
    """Return the error for a stream that the server ended."""
    # Of what pgoutput looks up by name, only publications can be missing.
    if isinstance(error, errors.UndefinedObject):
        return _hole_error(one_line(error), error.diag.context)
    return sql_error(error, slot=slot)


def _hole_error(reason: str, context: str | None) -> PublicationMissing:
    """Return the error for a change that was made without its publication."""
    position = re.search(r"LSN ([0-9A-F]+/[0-9A-F]+)", context or "")
    at = f" at {position[1]}" if position else ""
    return PublicationMissing(
        f"A change was made{at} while its publication was missing: {reason}.",
        hint="The slot cannot pass that position. To go on from the end of the log,"
        f" without what was written since, run: {RECREATE}",
    )
