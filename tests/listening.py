"""A listener in a thread of the test, and what it heard."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, Self

from django.db import connections

from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.listening.listener import Listener
from walex_django.listening.start import Start
from walex_django.monitoring.reporter import Report
from walex_django.signals import post_db_change

Connect = Callable[..., None]
"""The type of the fixture `connect`: signal, receiver and perhaps a sender."""

TIMEOUT = 60  # seconds, for what takes milliseconds on an idle machine


class Listening:
    """
    Runs a listener while the ``with`` block lasts.

    Attributes:
        events: those it delivered, in order.
        senders: the sender of each.
        error: what ended the listener, if anything did.
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
        post_db_change.connect(self._hear)
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
        """What the listener says of itself."""
        return self._listener.report

    def stop(self) -> None:
        """Stop the listener and wait for its end."""
        self._listener.stop()
        self._thread.join(TIMEOUT)
        post_db_change.disconnect(self._hear)
        assert not self._thread.is_alive(), "the listener did not stop"

    def wait_for(self, count: int) -> list[Event]:
        """Return the events once there are that many, all of them."""
        self.wait_until(lambda: len(self.events) >= count or self._ended)
        if self.error:
            raise self.error
        assert len(self.events) == count, self.events
        return self.events

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, looking after each event."""
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT), self.events

    def wait_for_end(self) -> Exception | None:
        """Return what ended the listener."""
        self.wait_until(lambda: self._ended)
        return self.error

    def _begin(self, start: Start) -> None:
        with self._changed:
            self.start = start
            self._changed.notify_all()

    def _hear(self, sender: Any, event: Event, **kwargs: Any) -> None:
        with self._changed:
            self.senders.append(sender)
            self.events.append(event)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._listener.run()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        finally:
            connections.close_all()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
