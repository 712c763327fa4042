"""Threads for the functions of handlers."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError, Lock, local

from django.db import close_old_connections, connections, reset_queries

from walex_django.events.event import Event
from walex_django.handlers.functions import Function

THREADS = 10
"""So many functions run at a time, each with connections of its thread's own."""

_RENEW_EVERY = 1.0  # seconds


class Pool:
    """Calls functions beside each other. The threads start when they are needed."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._lock = Lock()
        self._thread = local()

    def submit(self, function: Function, event: Event) -> Future[None]:
        """Call a function with an event, when a thread is free."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "walex-function")
        with self._lock:
            self._waiting += 1
        return self._executor.submit(self._call, function, event)

    def close(self) -> None:
        """Wait for the calls that have begun, and end the threads."""
        if self._executor is None:
            return
        executor, self._executor = self._executor, None
        # A connection is its thread's: each has to close its own, all at once.
        together = Barrier(THREADS)
        try:
            for _ in range(THREADS):
                executor.submit(_close_connections, together)
        except RuntimeError:  # the interpreter ends, and starts no more threads
            together.abort()
        executor.shutdown()

    def _call(self, function: Function, event: Event) -> None:
        with self._lock:
            self._waiting -= 1
        # As a request does, but a connection for each of many calls is too much.
        now = time.monotonic()
        if now - getattr(self._thread, "renewed", 0) > _RENEW_EVERY:
            self._thread.renewed = now
            close_old_connections()
        reset_queries()
        is_last = True
        try:
            function(event=event)
            is_last = not self._waiting
        finally:
            if is_last:
                close_old_connections()


def _close_connections(together: Barrier) -> None:
    with suppress(BrokenBarrierError):
        together.wait()
    connections.close_all()
