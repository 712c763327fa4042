"""Handlers and functions that record the events they receive."""

from __future__ import annotations

from threading import Lock

from tests.listening import Listening
from tests.zoo.models import Building
from walex_django import Event

from .mascots import Gate


class Recorder:
    """
    A handler that records the lists of events it receives.

    Args:
        name: The name under which it is registered and parked.
        failures: The number of calls that raise an error.
    """

    def __init__(self, name: str = "handler", failures: float = 0) -> None:
        self.__name__ = self.__qualname__ = name
        self.failures = failures
        self.lists: list[list[Event]] = []

    def __call__(self, events: list[Event]) -> None:
        self.lists.append(list(events))
        if self.failures > 0:
            self.failures -= 1
            events.clear()
            raise ValueError("not in the mood")

    @property
    def labels(self) -> list[list[str]]:
        """The labels of the events, list by list."""
        return [[label(event) for event in events] for events in self.lists]


class Function:
    """
    A function that records the events it receives.

    Args:
        name: The name under which it is parked.
        failures: The number of calls that raise an error.
        gate: The gate at which each call waits before it ends.
    """

    def __init__(
        self, name: str = "function", *, failures: float = 0, gate: Gate | None = None
    ) -> None:
        self.__name__ = self.__qualname__ = name
        self.failures, self._gate = failures, gate
        self._lock = Lock()
        self.calls: list[str] = []

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.calls.append(label(event))
            fails = self.failures > 0
            self.failures -= fails
        if self._gate:
            self._gate()
        if fails:
            raise ValueError("not in the mood")


def label(event: Event) -> str:
    """Return the event's type and the name in its row."""
    record = event.new_record or event.old_record or {}
    return " ".join(filter(None, [event.type, record.get("name")]))


def wait_until_done(listening: Listening) -> None:
    """Wait until all changes so far are delivered and their calls are finished."""
    last = Building.objects.create(name="done")

    def marks() -> list[Event]:
        # Not always the last event: changes made by the calls follow it.
        return [event for event in listening.events if event.instance == last]

    listening.wait_until(lambda: listening.error is not None or bool(marks()))
    if listening.error:
        raise listening.error
    for mark in marks():
        listening.events.remove(mark)
