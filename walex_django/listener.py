"""One stream from the server to the receivers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread

from django.db import connections

from .conf import StreamConfig
from .delivery import Delivery, Interrupted
from .feed import Feed
from .filters import Subscriptions
from .pgoutput.lsn import Lsn
from .plan import require_published
from .replication import publications, server, slots
from .replication.connection import Connection, ReplicationConnection, connect
from .replication.errors import NotPrepared, ReplicationError, SlotMissing
from .replication.heartbeat import Heartbeat
from .replication.progress import Progress
from .replication.publications import TableName
from .tables import ModelTables

logger = logging.getLogger(__name__)

_IDLE = 60.0  # seconds; `wake` ends the wait sooner
_SIGNAL_DELAY = 0.2  # seconds, at most, until a signal is obeyed
_DRAIN_IDLE = 0.1  # seconds until we ask how far the server is


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """
    What a listener found when it started to stream; for the banner.

    Attributes:
        config: of the stream.
        database: its name on the server.
        server_version: as the server writes it.
        tables: those of the publication that the stream delivers.
    """

    config: StreamConfig
    database: str
    server_version: str
    tables: list[TableName]


class Listener:
    """
    Reads one stream and delivers its events until it is stopped.

    Args:
        config: of the stream.
        drain: end at the position that the log has at the start.
        started: called when it begins to stream.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        drain: bool = False,
        started: Callable[[Start], None] | None = None,
    ) -> None:
        self.config = config
        self._drain = drain
        self._started = started
        self._stopped = Event()
        self._connection: ReplicationConnection | None = None
        self._waiting: Connection | None = None

    def stop(self) -> None:
        """End after the transaction in hand. May be called from any thread."""
        self._stopped.set()
        if waiting := self._waiting:
            waiting.cancel_safe(timeout=5)
        if connection := self._connection:
            connection.wake()

    def run(self) -> None:
        """
        Stream until `stop`, or until drained.

        Raises:
            ReplicationError: the stream cannot start or go on.
            ProtocolError: the server sent what is no message.
            ReceiverFailed: a receiver raised; its transaction is not acknowledged.
        """
        config = self.config
        parameters = config.connection_parameters()
        with connect(parameters) as connection:
            start = self._prepare(connection)
            until = server.log_position(connection) if self._drain else None
            patience = server.sender_timeout(connection)
        replication = ReplicationConnection(parameters, slot=config.slot_name)
        try:
            if not config.durable_slot:
                self._create_slot(replication)
                if self._stopped.is_set():
                    return
            replication.start(config.publications, messages=bool(config.messages))
            self._connection = replication
            if self._started:
                self._started(start)
            logger.debug("Stream %s reads slot %s", config.name, config.slot_name)
            self._stream(replication, min(config.status_interval, patience / 3), until)
        except Interrupted:
            logger.info("Stopped before a retry; the transaction will come again.")
        finally:
            self._connection = None
            with suppress(ReplicationError):
                replication.end()
                if not config.durable_slot:
                    # It would go with the connection, but some moments later.
                    slots.drop(replication.sql, config.slot_name)
            replication.close()

    def _create_slot(self, replication: ReplicationConnection) -> None:
        """Create the temporary slot; `stop` ends the wait for writing transactions."""
        logger.debug("Stream %s waits for writing transactions", self.config.name)
        self._waiting = replication.sql
        try:
            if not self._stopped.is_set():
                slots.create(replication.sql, self.config.slot_name, temporary=True)
        except ReplicationError:
            if not self._stopped.is_set():
                raise
        finally:
            self._waiting = None

    def _prepare(self, connection: Connection) -> Start:
        """Find what the stream needs; raise what names the mend if it is not there."""
        config = self.config
        database = server.prepared_database(connection)
        self._require_one_database(connection)
        require_published(config, connection)
        slot = slots.find(connection, config.slot_name)
        if slot is not None:
            slots.check(slot, database=database, durable=config.durable_slot)
        elif config.durable_slot:
            raise SlotMissing(
                f'The slot "{config.slot_name}" does not exist.',
                hint="Run: python manage.py walex_setup",
            )
        return Start(
            config=config,
            database=database,
            server_version=connection.info.parameter_status("server_version") or "",
            tables=self._delivered(connection),
        )

    def _require_one_database(self, connection: Connection) -> None:
        """Raise if `URL` leads to another database than the models are in."""
        if self.config.url is None:
            return
        wrapper = connections[self.config.database]
        with wrapper.cursor() as cursor:
            cursor.execute(server.IDENTITY)
            if cursor.fetchone() != server.identity(connection):
                raise NotPrepared(
                    f"URL leads to another database than DATABASE, which is"
                    f" {self.config.database!r}.",
                    hint="Let both name the same: events are matched to its models.",
                )

    def _delivered(self, connection: Connection) -> list[TableName]:
        subscriptions = Subscriptions(self.config.subscriptions)
        models = ModelTables(self.config.database)
        return [
            table
            for table in publications.tables(connection, self.config.publications)
            if subscriptions.cover(table, models.model(table))
        ]

    def _stream(
        self, connection: ReplicationConnection, interval: float, until: Lsn | None
    ) -> None:
        progress = Progress()
        feed = Feed(
            self.config,
            models=ModelTables(self.config.database),
            delivery=Delivery(self.config, stopped=self._stopped),
            progress=progress,
        )
        try:
            with Heartbeat(connection, progress, interval):
                while not self._is_done(feed, progress, until):
                    batch = connection.receive()
                    feed.read(batch, stopped=self._stopped.is_set)
                    if feed.reply_requested:
                        feed.reply_requested = False
                        connection.send_progress(progress)
                    if not batch:
                        self._idle(connection, progress, until)
        finally:
            # What is done is done, however this ends.
            with suppress(ReplicationError):
                self._tell(connection, progress)

    def _tell(self, connection: ReplicationConnection, progress: Progress) -> None:
        if connection.is_streaming:
            connection.send_progress(progress)
        elif progress.confirmed > progress.told:
            # The server ended the stream by an error, and takes SQL again.
            slots.advance(connection.sql, self.config.slot_name, progress.confirmed)

    def _idle(
        self, connection: ReplicationConnection, progress: Progress, until: Lsn | None
    ) -> None:
        """Say how far we are, now that nothing waits to be read, then wait."""
        if progress.confirmed > progress.told:
            connection.send_progress(progress)
        if until is None:
            connection.wait(_IDLE)
        elif not connection.wait(_DRAIN_IDLE):
            connection.send_progress(progress, reply_requested=True)

    def _is_done(self, feed: Feed, progress: Progress, until: Lsn | None) -> bool:
        if feed.in_transaction:
            return False
        return self._stopped.is_set() or (
            until is not None and progress.confirmed >= until
        )


class Listeners:
    """
    Several listeners, each in a thread of its own.

    When one of them fails, the others end in order.

    Attributes:
        failures: listeners that ended by an error, with the error.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.failures: list[tuple[Listener, BaseException]] = []
        self._listeners = listeners
        # Daemons, so that a process in a hurry need not wait for them.
        self._threads = [
            Thread(
                target=self._run,
                args=[listener],
                name=f"walex-{listener.config.name}",
                daemon=True,
            )
            for listener in listeners
        ]

    def start(self) -> None:
        """Start all."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all, each after its transaction in hand."""
        for listener in self._listeners:
            listener.stop()

    def join(self, timeout: float = math.inf) -> None:
        """Wait until all have ended. Args: timeout: seconds to wait at most."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            # In steps: a signal that arrives just as a wait begins does not end it, and
            # its handler runs only after the wait.
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(_SIGNAL_DELAY)

    def _run(self, listener: Listener) -> None:
        try:
            listener.run()
        except BaseException as error:  # noqa: BLE001 - whoever joins tells it
            self.failures.append((listener, error))
            self.stop()
        finally:
            connections.close_all()
