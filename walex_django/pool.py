"""Threads for the functions of handlers."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier

from django.db import close_old_connections, connections

from .events import Event
from .handlers import Function

THREADS = 10
"""So many functions run at a time, each with connections of its thread's own."""


class Pool:
    """Calls functions beside each other. The threads start when they are needed."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Function, event: Event) -> Future[None]:
        """Call a function with an event, when a thread is free."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "walex-function")
        return self._executor.submit(_call, function, event)

    def close(self) -> None:
        """Wait for the calls that have begun, and end the threads."""
        if self._executor is None:
            return
        executor, self._executor = self._executor, None
        # A connection is its thread's: each has to close its own, all at once.
        together = Barrier(THREADS)
        for _ in range(THREADS):
            executor.submit(_close_connections, together)
        executor.shutdown()


def _call(function: Function, event: Event) -> None:
    close_old_connections()
    try:
        function(event=event)
    finally:
        close_old_connections()


def _close_connections(together: Barrier) -> None:
    together.wait()
    connections.close_all()
