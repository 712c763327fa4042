"""Receivers that create mascots, whose table no stream delivers."""

from __future__ import annotations

from threading import Event as Flag
from typing import Any

import psycopg

from tests.listening import TIMEOUT
from tests.process import eventually
from tests.zoo.models import Mascot
from walex_django import Event
from walex_django.replication import slots

Sql = psycopg.Connection[Any]


def name_of(event: Event) -> str:
    """Return the name in the event's new row."""
    assert event.new_record
    return str(event.new_record["name"])


def adopt(event: Event, **kwargs: Any) -> None:
    """Create a mascot for each new row: a receiver."""
    Mascot.objects.create(name=name_of(event))


class Moody:
    """A receiver that creates a mascot, and raises a given number of times."""

    def __init__(self, times: float) -> None:
        self.times, self.calls = times, 0

    def __call__(self, event: Event, **kwargs: Any) -> None:
        self.calls += 1
        Mascot.objects.create(name=f"moody {name_of(event)}")
        if self.times > 0:
            self.times -= 1
            raise ValueError("moody")


class Gate:
    """A receiver that blocks until the gate is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = Flag(), Flag()

    def __call__(self, **kwargs: Any) -> None:
        self._reached.set()
        assert self._opened.wait(TIMEOUT), "the gate was not opened"

    def wait(self) -> None:
        """Wait until the receiver is called."""
        assert self._reached.wait(TIMEOUT), "the gate was not reached"

    def open(self) -> None:
        """Open the gate for this call and all later ones."""
        self._opened.set()


class Gates:
    """
    A receiver that waits at a different gate in each call, and then at none.

    Args:
        count: The number of gates.
    """

    def __init__(self, count: int) -> None:
        self._gates = [Gate() for _ in range(count)]
        self._left = iter(self._gates)

    def __call__(self, **kwargs: Any) -> None:
        if gate := next(self._left, None):
            gate()

    def __getitem__(self, number: int) -> Gate:
        return self._gates[number]


def adopted(sql: Sql) -> list[str]:
    """Return the names of all mascots in order, as other sessions see them."""
    rows = sql.execute("SELECT name FROM zoo_oldmascot ORDER BY id")
    return [name for (name,) in rows]


def wait_until_adopted(sql: Sql, *names: str) -> None:
    """Wait until other sessions see exactly these mascots."""
    eventually(lambda: len(adopted(sql)) >= len(names), f"adopting {names}")
    assert adopted(sql) == [*names], adopted(sql)


def position(sql: Sql) -> int:
    """Return the stream's position, as other sessions see it."""
    ((value,),) = sql.execute(
        "SELECT position FROM walex_django_checkpoint WHERE stream = 'default'"
    )
    return int(value)


def cut_stream(sql: Sql) -> None:
    """Terminate the stream's walsender; the busy listener notices it later."""
    sql.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
        " WHERE slot_name = 'zoo_walex'"
    )
    eventually(lambda: not _in_use(sql), "the end of the stream")


def _in_use(sql: Sql) -> bool:
    slot = slots.find(sql, "zoo_walex")
    return slot is not None and slot.active_pid is not None


def acknowledged(sql: Sql, lsn: int) -> bool:
    """Return whether everything up to a position has been acknowledged."""
    found = sql.execute(
        "SELECT FROM pg_replication_slots WHERE slot_name = 'zoo_walex'"
        " AND confirmed_flush_lsn - '0/0' > %s",
        [lsn],
    )
    return found.fetchone() is not None
