"""The session of one connection: from the server to the receivers, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import Event

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections

from walex_django import log
from walex_django.conf import configs, receivers_database, stored
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import Delivery
from walex_django.delivery.transactions import (
    AtomicUnitOfWork,
    ConnectionBreaks,
    UnitOfWork,
)
from walex_django.events.catalogue import ModelTables
from walex_django.models import ListenerState
from walex_django.monitoring.report import Report
from walex_django.pgoutput.lsn import Lsn
from walex_django.provisioning.checkpoints import CheckpointWriter
from walex_django.provisioning.requirements import require_published
from walex_django.replication import server, slots
from walex_django.replication.connection import Connection, connect, sql_error
from walex_django.replication.errors import (
    ConnectionLost,
    DecodingFailed,
    ReplicationError,
)
from walex_django.replication.heartbeat import Heartbeat
from walex_django.replication.progress import Progress
from walex_django.replication.stream import ReplicationConnection

from . import closing, pausing
from .event_reader import EventReader
from .start import OnSlotInUse, Start, locate_slot, prepare

logger = log.logger(__name__)

_MIDDLEWARE_TIMEOUT = 30.0  # seconds without a message from the middleware
_DRAIN_IDLE = 0.1  # seconds of silence before the server is asked for its position


class Session:
    """
    Connects, reads one stream and delivers its events until it is stopped.

    Args:
        config: The stream's configuration.
        drain: Whether to stop at the WAL position of the start, or at ``until``.
        until: The WAL position to stop at, if it is known from an earlier session.
        stopped: A flag that ends the session after the current transaction.
        started: A callable that is called when the stream starts.
        on_slot_in_use: See `prepare`.
        breaks: See `AtomicUnitOfWork`.
        report: The listener's report, which the session updates.

    Attributes:
        system: The server's system identifier, once a durable slot has been located.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        drain: bool,
        until: Lsn | None,
        stopped: Event,
        started: Callable[[Start], None],
        on_slot_in_use: OnSlotInUse | None,
        breaks: ConnectionBreaks,
        report: Report,
    ) -> None:
        self.config = self._base = config
        self._report = report
        self.until = until
        self._drain = drain
        self._started = started
        self._on_slot_in_use = on_slot_in_use
        self._breaks = breaks
        self._stopped = stopped
        self.system: int | None = None
        self._connection: ReplicationConnection | None = None
        self._waiting: Connection | None = None

    def wake(self) -> None:
        """Make the session notice that it is stopped. May be called from any thread."""
        if waiting := self._waiting:
            with suppress(psycopg.Error):  # it may have just ended
                waiting.cancel_safe(timeout=5)
        if connection := self._connection:
            connection.wake()

    def run(self) -> None:
        """
        Stream until stopped or drained.

        Raises:
            ReplicationError: The stream cannot start or continue.
            ProtocolError: The server sent an invalid message.
            ReceiverFailed: See `Delivery.deliver`.
            Interrupted: See `Delivery.deliver`.
        """
        try:
            # A query on a connection whose server is silent would wait forever.
            connections.close_all()
            self._run()
        except DatabaseError as error:
            if known := receivers_database.known_error(error):
                raise known from error
            raise
        except psycopg.Error as error:
            raise sql_error(error, slot=self.config.slot_name) from error

    def _run(self) -> None:
        config = configs.follow(self._base)
        parameters = config.connection_parameters()
        with ExitStack() as stack:
            connection = stack.enter_context(connect(parameters))
            for alias in {config.database, receivers_database.database()}:
                receivers_database.connect(alias)
            start = self._prepare(connection)
            config = start.config
            if self._stopped.is_set():
                return
            if self._drain and self.until is None:
                self.until = server.log_position(connection)
            timeout = server.sender_timeout(connection)
            replication = ReplicationConnection(parameters, slot=config.slot_name)
            stack.callback(self._close, replication)
            place = None
            if config.durable_slot:
                place = locate_slot(start, replication)
                self.system = place.system
            elif not self._create_slot(replication):
                return
            replication.start(config.publications)
            self._connection = self._report.connection = replication
            # Only now is the slot ours: its last reader may have just advanced it.
            checkpoint = None
            if place:
                slot = slots.require(connection, config.slot_name)
                self._waiting = receivers_database.psycopg_connection()
                checkpoint = CheckpointWriter(config, place, slot)
                self._waiting = None
            connection.close()
            self._report.set_state(
                ListenerState.RUNNING, backend_pid=replication.backend_pid
            )
            self._started(start)
            if config.paused:
                self._report.hold.set()
            self._stream(replication, timeout, checkpoint)

    def _prepare(self, connection: Connection) -> Start:
        while True:
            config = self.config = stored.refreshed(self._base)
            start = prepare(
                config,
                connection,
                stopped=self._stopped,
                on_slot_in_use=self._on_slot_in_use,
            )
            # The process that had the slot may have consumed a change of the settings.
            if self._stopped.is_set() or stored.refreshed(self._base) == config:
                return start

    def _close(self, replication: ReplicationConnection) -> None:
        self._connection = self._report.connection = None
        with suppress(ReplicationError):
            replication.end()
            if not self.config.durable_slot:
                # The server would drop it with the connection, but some moments later.
                slots.drop(replication.sql, self.config.slot_name)
        replication.close()

    def _create_slot(self, replication: ReplicationConnection) -> bool:
        """
        Create the temporary slot.

        The server waits for running write transactions; `wake` ends that wait.

        Returns:
            Whether the slot was created.
        """
        self._waiting = replication.sql
        try:
            if not self._stopped.is_set():
                slots.create(replication.sql, self.config.slot_name, temporary=True)
        except ReplicationError:
            if not self._stopped.is_set():
                raise
        finally:
            self._waiting = None
        return not self._stopped.is_set()

    def _stream(
        self,
        connection: ReplicationConnection,
        timeout: float,
        checkpoint: CheckpointWriter | None,
    ) -> None:
        """
        Deliver events until the session ends.

        Args:
            connection: The connection, which has started streaming.
            timeout: The seconds of silence after which the connection counts as lost.
            checkpoint: The slot's checkpoint, or `None` if the slot is temporary.
        """
        interval = min(self.config.status_interval, timeout / 3)
        progress = Progress()
        done = Lsn(0)
        unit_of_work = UnitOfWork(checkpoint)
        if checkpoint and self.config.atomic:
            done = checkpoint.done
            retries = self.config.max_retries
            unit_of_work = AtomicUnitOfWork(
                checkpoint, max_retries=retries, breaks=self._breaks
            )
        delivery = Delivery(
            self.config,
            stopped=self._stopped,
            unit_of_work=unit_of_work,
            counts=self._report.counts,
        )
        reader = EventReader(
            self._base,
            models=ModelTables(self.config.database),
            delivery=delivery,
            progress=progress,
            done=done,
            wake=connection.wake,
            reconfigured=self._reconfigured,
            described=self._report.note_description,
        )
        lost = closed = False
        try:
            with Heartbeat(
                connection, progress, interval, timeout=timeout
            ) as heartbeat:
                unread = self._read(
                    connection, reader, progress, heartbeat, interval, timeout
                )
                if checkpoint and progress.is_settled and closing.is_read(unread):
                    closed = closing.close(
                        *(self.config, connection, progress, checkpoint, self._report)
                    )
        except (ReplicationError, DatabaseError):
            lost = True
            raise
        finally:
            reader.close()
            delivery.close()
            unit_of_work.abandon()
            # Acknowledge finished transactions however the session ends.
            with suppress(ReplicationError):
                self._send_last(connection, progress)
                if checkpoint and not (lost or closed):
                    checkpoint.close(progress.sent)

    def _read(
        self,
        connection: ReplicationConnection,
        reader: EventReader,
        progress: Progress,
        heartbeat: Heartbeat,
        interval: float,
        timeout: float,
    ) -> Iterator[bytes]:
        """Read until the session is done, and return the payloads that are left."""
        hold = self._report.hold
        unread: Iterator[bytes] = iter(())

        def halted() -> bool:
            return self._stopped.is_set() or hold.is_set() or heartbeat.is_lost()

        last_read = time.monotonic()
        while not self._is_done(reader, progress):
            heartbeat.is_lost()  # then the connection raises the reason
            if hold.is_set() and not reader.in_transaction:
                pausing.pause(
                    self._base,
                    connection,
                    progress,
                    report=self._report,
                    stopped=self._stopped,
                    draining=self.until is not None,
                )
                reader.read(unread, stopped=halted)
                last_read = time.monotonic()
            elif batch := self._receive(connection, reader):
                unread = iter(batch)
                reader.read(unread, stopped=halted)
                last_read = time.monotonic()
            elif reader.read_delivered(stopped=halted):
                continue
            elif not self._wait(connection, progress, interval):
                _require_answer(last_read, timeout)
                connection.send_progress(progress, reply_requested=True)
            if reader.reply_requested:
                reader.reply_requested = False
                connection.send_progress(progress)
        return unread

    def _receive(
        self, connection: ReplicationConnection, reader: EventReader
    ) -> list[bytes]:
        try:
            return connection.receive()
        except DecodingFailed as error:
            # Everything before the transaction has to be acknowledged: it is skipped
            # by its position.
            error.begin = reader.last_begin
            deadline = time.monotonic() + _MIDDLEWARE_TIMEOUT
            while reader.is_waiting and not self._stopped.is_set():
                if reader.read_delivered(stopped=self._stopped.is_set):
                    deadline = time.monotonic() + _MIDDLEWARE_TIMEOUT
                elif time.monotonic() > deadline:
                    break
                else:
                    connection.wait(_DRAIN_IDLE)
            raise

    def _reconfigured(self, config: StreamConfig) -> None:
        """Log that the configuration has changed, and any unmet requirement."""
        logger.info("Stream %s reloaded its settings", config.name)
        if config.paused:
            self._report.hold.set()
        try:
            with connect(config.connection_parameters()) as connection:
                require_published(config, connection)
        except (ReplicationError, ImproperlyConfigured) as error:
            logger.warning("Stream %s: %s", config.name, error)

    def _send_last(self, connection: ReplicationConnection, progress: Progress) -> None:
        if connection.is_streaming:
            connection.send_progress(progress)
        elif progress.confirmed > progress.sent:
            # The server ended the stream with an error, and accepts SQL again.
            slots.advance(connection.sql, self.config.slot_name, progress.confirmed)

    def _wait(
        self, connection: ReplicationConnection, progress: Progress, interval: float
    ) -> bool:
        """
        Send the progress, then wait for data.

        Returns:
            Whether data arrived.
        """
        if progress.confirmed > progress.sent:
            connection.send_progress(progress)
        return connection.wait(interval if self.until is None else _DRAIN_IDLE)

    def _is_done(self, reader: EventReader, progress: Progress) -> bool:
        if reader.in_transaction:
            return False
        return self._stopped.is_set() or (
            self.until is not None and progress.confirmed >= self.until
        )


def _require_answer(last_read: float, timeout: float) -> None:
    """Raise if the server is silent: the socket does not report a cut network."""
    silence = time.monotonic() - last_read
    if silence > timeout:
        raise ConnectionLost(
            f"The connection to PostgreSQL was lost: no answer for {silence:.0f} s."
        )
