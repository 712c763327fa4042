"""Signs of life while receivers work."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import Self

from .errors import ReplicationError
from .progress import Progress
from .stream import ReplicationConnection


class Heartbeat:
    """
    Tells the server our position from a thread of its own.

    A server cuts off who is silent for ``wal_sender_timeout``, also while a receiver
    is at work in the thread that reads.

    Args:
        connection: one that streams.
        progress: of the stream on it.
        interval: seconds between two signs.
    """

    def __init__(
        self, connection: ReplicationConnection, progress: Progress, interval: float
    ) -> None:
        self._connection, self._progress = connection, progress
        self._interval = interval
        self._ended = Event()
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
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._connection.send_progress(self._progress)
            except ReplicationError:
                # The thread that reads finds the same, and knows what to do.
                return
