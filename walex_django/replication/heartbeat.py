"""Status updates that keep the connection alive while receivers run."""

from __future__ import annotations

import time
from threading import Event, Thread
from types import TracebackType
from typing import Self

from . import attempts
from .errors import ConnectionLost, ReplicationError
from .progress import Progress
from .stream import ReplicationConnection

_LOOK_EVERY = 2.0  # seconds between two checks whether the server is stopping
_LOOK_TIMEOUT = 2.0  # seconds

# Unlike CLOCK_MONOTONIC, this one does not stop while the machine is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def _now() -> float:
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Heartbeat:
    """
    Sends the stream's position to the server from a background thread.

    The server ends a connection that is silent for ``wal_sender_timeout``, even while a
    receiver is running in the thread that reads the stream. On the other hand, a server
    that is stopping waits for a connection that is not silent, until it has confirmed
    everything. While that may take long, this thread checks whether the server is
    stopping, and if so, releases the connection.

    Args:
        connection: A streaming connection.
        progress: The progress of its stream.
        interval: Seconds between two status updates.
        timeout: Seconds of silence after which the server ends the connection.
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        progress: Progress,
        interval: float,
        *,
        timeout: float,
    ) -> None:
        self._connection, self._progress = connection, progress
        self._interval, self._timeout = interval, timeout
        self._sent_at = self._looked_at = _now()
        self._address = attempts.address(connection.sql)
        self._stopped = Event()
        self._thread = Thread(
            target=self._run, name=f"walex-heartbeat-{connection.slot}", daemon=True
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

    def is_lost(self) -> bool:
        """
        Return whether the connection is lost, whatever it has still to be read.

        If this process was suspended for too long, the server has ended the connection,
        and another listener may have delivered the following transactions.
        """
        silence = _now() - self._sent_at
        if silence > self._timeout:
            self._connection.release(
                ConnectionLost(
                    "The connection to PostgreSQL was lost: this process sent nothing"
                    f" for {silence:.0f} s, perhaps because it was suspended."
                )
            )
        return self._connection.is_released

    def _run(self) -> None:
        try:
            while not self._stopped.wait(min(self._interval, _LOOK_EVERY)):
                if self.is_lost():
                    return
                now = _now()
                if now - self._sent_at >= self._interval:
                    self._connection.send_progress(self._progress)
                    self._sent_at = now
                if now - self._looked_at >= _LOOK_EVERY:
                    self._looked_at = now
                    self._look()
        except ReplicationError as error:
            # The reading thread gets the same error and handles it.
            self._connection.release(error)

    def _look(self) -> None:
        """Release the connection if the server would wait for it in order to stop."""
        if self._connection.is_waiting and self._progress.is_settled:
            return
        # Status updates must not be delayed for too long.
        timeout = min(_LOOK_TIMEOUT, self._timeout / 3)
        if attempts.is_stopping(self._address, timeout=timeout):
            raise ConnectionLost(
                "The connection to PostgreSQL was closed: the server is stopping."
            )
