"""Status updates that keep the connection alive while receivers run."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import Self

from .errors import ReplicationError
from .progress import Progress
from .stream import ReplicationConnection


class Heartbeat:
    """
    Sends the stream's position to the server from a background thread.

    The server ends a connection that is silent for ``wal_sender_timeout``, even while a
    receiver is running in the thread that reads the stream.

    Args:
        connection: A streaming connection.
        progress: The progress of its stream.
        interval: Seconds between two status updates.
    """

    def __init__(
        self, connection: ReplicationConnection, progress: Progress, interval: float
    ) -> None:
        self._connection, self._progress = connection, progress
        self._interval = interval
        self._stopped = Event()
        self._thread = Thread(
            target=self._beat, name=f"walex-heartbeat-{connection.slot}", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._connection.send_progress(self._progress)
            except ReplicationError:
                # The reading thread gets the same error and handles it.
                return
