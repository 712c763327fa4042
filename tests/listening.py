"""A listener in a thread of the test, with the events that it delivers."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, Self

from django.db import connections

from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.listening.listener import Listener
from walex_django.listening.start import Start
from walex_django.monitoring.report import Report
from walex_django.signals import post_db_change

Connect = Callable[..., None]
"""The type of the fixture `connect`, which takes a signal, receiver and sender."""

TIMEOUT = 60  # seconds; enough for busy machines


class Listening:
    """
    A context manager that runs a listener.

    Attributes:
        events: The delivered events, in order.
        senders: The sender of each event.
        error: The exception that ended the listener, if any.
        start: The listener's start, once it streams.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.events: list[Event] = []
        self.senders: list[Any] = []
        self.error: Exception | None = None
        self.start: Start | None = None
        self._changed = Condition()
        self._ended = False
        self._listener = Listener(config, started=self._begin)
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        post_db_change.connect(self._receive)
        self._thread.start()
        self.wait_until(lambda: self.start is not None or self._ended)
        if self.error and self.start is None:
            self.stop()
            raise self.error
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def report(self) -> Report:
        """The listener's report."""
        return self._listener.report

    def stop(self) -> None:
        """Stop the listener and wait for it to end."""
        self._listener.stop()
        self._thread.join(TIMEOUT)
        post_db_change.disconnect(self._receive)
        assert not self._thread.is_alive(), "the listener did not stop"

    def wait_for(self, count: int) -> list[Event]:
        """Wait for exactly that many events; return them."""
        self.wait_until(lambda: len(self.events) >= count or self._ended)
        if self.error:
            raise self.error
        assert len(self.events) == count, self.events
        return self.events

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, checking it after each event."""
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT), self.events

    def wait_for_end(self) -> Exception | None:
        """Wait for the listener to end; return the exception that ended it, if any."""
        self.wait_until(lambda: self._ended)
        return self.error

    def _begin(self, start: Start) -> None:
        with self._changed:
            self.start = start
            self._changed.notify_all()

    def _receive(self, sender: Any, event: Event, **kwargs: Any) -> None:
        with self._changed:
            self.senders.append(sender)
            self.events.append(event)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._listener.run()
        except Exception as error:  # noqa: BLE001 - reraised in the test
            self.error = error
        finally:
            connections.close_all()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
