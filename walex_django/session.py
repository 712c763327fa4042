"""One connection's life: from the server to the receivers, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event

import psycopg
from django.db import InterfaceError, OperationalError, connections

from .conf import StreamConfig
from .delivery import Delivery
from .feed import Feed
from .filters import Subscriptions
from .pgoutput.lsn import Lsn
from .plan import require_published
from .replication import publications, server, slots
from .replication.connection import (
    Connection,
    ReplicationConnection,
    connect,
    sql_error,
)
from .replication.errors import (
    ConnectionLost,
    NotPrepared,
    ReplicationError,
    SlotMissing,
)
from .replication.heartbeat import Heartbeat
from .replication.progress import Progress
from .replication.publications import TableName
from .tables import ModelTables

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


class Session:
    """
    Connects, reads one stream and delivers its events until it is stopped.

    Args:
        config: of the stream.
        drain: end at the position that the log has at the start, or at ``until``.
        until: that position, where it is known already.
        stopped: set when the session is to end after the transaction in hand.
        started: called when it begins to stream.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        drain: bool,
        until: Lsn | None,
        stopped: Event,
        started: Callable[[Start], None],
    ) -> None:
        self.config = config
        self.until = until
        self._drain = drain
        self._started = started
        self._stopped = stopped
        self._connection: ReplicationConnection | None = None
        self._waiting: Connection | None = None

    def wake(self) -> None:
        """Let it see that it is stopped. May be called from any thread."""
        if waiting := self._waiting:
            with suppress(psycopg.Error):  # it may just have ended
                waiting.cancel_safe(timeout=5)
        if connection := self._connection:
            connection.wake()

    def run(self) -> None:
        """
        Stream until stopped, or until drained.

        Raises:
            ReplicationError: the stream cannot start or go on.
            ProtocolError: the server sent what is no message.
            ReceiverFailed, Interrupted: see `Delivery`.
        """
        try:
            self._run()
        except (OperationalError, InterfaceError) as error:
            raise ConnectionLost(
                f"The receivers' database was lost: {' '.join(str(error).split())}."
            ) from error
        except psycopg.Error as error:
            raise sql_error(error, slot=self.config.slot_name) from error

    def _run(self) -> None:
        config = self.config
        parameters = config.connection_parameters()
        with connect(parameters) as connection:
            start = self._prepare(connection)
            if self._drain and self.until is None:
                self.until = server.log_position(connection)
            patience = server.sender_timeout(connection)
        replication = ReplicationConnection(parameters, slot=config.slot_name)
        try:
            if not config.durable_slot:
                self._create_slot(replication)
                if self._stopped.is_set():
                    return
            replication.start(config.publications, messages=bool(config.messages))
            self._connection = replication
            self._started(start)
            self._stream(replication, patience)
        finally:
            self._connection = None
            with suppress(ReplicationError):
                replication.end()
                if not config.durable_slot:
                    # It would go with the connection, but some moments later.
                    slots.drop(replication.sql, config.slot_name)
            replication.close()

    def _create_slot(self, replication: ReplicationConnection) -> None:
        """Create the temporary slot; `wake` ends the wait for writing transactions."""
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
        models = dict(ModelTables(self.config.database).items())
        return [
            table
            for table in publications.tables(connection, self.config.publications)
            if subscriptions.cover(table, models.get(table))
        ]

    def _stream(self, connection: ReplicationConnection, patience: float) -> None:
        """Args: patience: seconds of silence that the server allows, as do we."""
        interval = min(self.config.status_interval, patience / 3)
        progress = Progress()
        feed = Feed(
            self.config,
            models=ModelTables(self.config.database),
            delivery=Delivery(self.config, stopped=self._stopped),
            progress=progress,
        )
        heard = time.monotonic()
        try:
            with Heartbeat(connection, progress, interval):
                while not self._is_done(feed, progress):
                    if batch := connection.receive():
                        feed.read(batch, stopped=self._stopped.is_set)
                        heard = time.monotonic()
                    elif not self._idle(connection, progress, interval):
                        _require_life(heard, patience)
                        connection.send_progress(progress, reply_requested=True)
                    if feed.reply_requested:
                        feed.reply_requested = False
                        connection.send_progress(progress)
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
        self, connection: ReplicationConnection, progress: Progress, interval: float
    ) -> bool:
        """
        Say how far we are, now that nothing waits to be read, then wait.

        Returns whether something came.
        """
        if progress.confirmed > progress.told:
            connection.send_progress(progress)
        return connection.wait(interval if self.until is None else _DRAIN_IDLE)

    def _is_done(self, feed: Feed, progress: Progress) -> bool:
        if feed.in_transaction:
            return False
        return self._stopped.is_set() or (
            self.until is not None and progress.confirmed >= self.until
        )


def _require_life(heard: float, patience: float) -> None:
    """Raise if the server did not answer: a connection cut on the way never tells."""
    silence = time.monotonic() - heard
    if silence > patience:
        raise ConnectionLost(
            f"The connection to PostgreSQL was lost: no answer for {silence:.0f} s."
        )
