"""Threads that run the functions of handlers."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError, Lock, local

from django.db import close_old_connections, connections, reset_queries

from walex_django.events.event import Event
from walex_django.handlers.functions import Function

THREADS = 10
"""The number of functions that run concurrently; each thread has its connections."""

_RENEW_EVERY = 1.0  # seconds


class Pool:
    """Runs functions concurrently. Threads are started on demand."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._lock = Lock()
        self._thread = local()

    def submit(self, function: Function, event: Event) -> Future[None]:
        """Call a function with an event as soon as a thread is free."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "walex-function")
        with self._lock:
            self._waiting += 1
        return self._executor.submit(self._call, function, event)

    def close(self) -> None:
        """Wait for the running calls, then stop the threads."""
        if self._executor is None:
            return
        executor, self._executor = self._executor, None
        # Only its own thread can close a connection. The barrier keeps each thread
        # busy until all of them have got a task, so that none is left out.
        barrier = Barrier(THREADS)
        try:
            for _ in range(THREADS):
                executor.submit(_close_connections, barrier)
        except RuntimeError:  # the interpreter is shutting down: no new threads
            barrier.abort()
        executor.shutdown()

    def _call(self, function: Function, event: Event) -> None:
        with self._lock:
            self._waiting -= 1
        # Django does this per request; doing it per call would reconnect too often.
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


def _close_connections(barrier: Barrier) -> None:
    with suppress(BrokenBarrierError):
        barrier.wait()
    connections.close_all()
