"""Receivers whose work is seen in the database: mascots, of which no stream tells."""

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
    """Return the name of a row that is there."""
    assert event.new_record
    return str(event.new_record["name"])


def adopt(event: Event, **kwargs: Any) -> None:
    """Write a mascot for each new row: a receiver."""
    Mascot.objects.create(name=name_of(event))


class Moody:
    """A receiver that writes a mascot, and raises as often as it is told to."""

    def __init__(self, times: float) -> None:
        self.times, self.calls = times, 0

    def __call__(self, event: Event, **kwargs: Any) -> None:
        self.calls += 1
        Mascot.objects.create(name=f"moody {name_of(event)}")
        if self.times > 0:
            self.times -= 1
            raise ValueError("moody")


class Gate:
    """A receiver that works until it is let go."""

    def __init__(self) -> None:
        self._reached, self._opened = Flag(), Flag()

    def __call__(self, **kwargs: Any) -> None:
        self._reached.set()
        assert self._opened.wait(TIMEOUT), "nobody has opened the gate"

    def wait(self) -> None:
        """Wait until it is called."""
        assert self._reached.wait(TIMEOUT), "nobody has come to the gate"

    def open(self) -> None:
        """Let it go, now and whenever it is called again."""
        self._opened.set()


class Gates:
    """
    A receiver that is another gate for each call, and then none.

    Args:
        count: of gates.
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
    """Return the names of all mascots, as others see them, in order."""
    rows = sql.execute("SELECT name FROM zoo_oldmascot ORDER BY id")
    return [name for (name,) in rows]


def will_have_adopted(sql: Sql, *names: str) -> None:
    """Wait until others see these mascots, and no more."""
    eventually(lambda: len(adopted(sql)) >= len(names), f"adopting {names}")
    assert adopted(sql) == [*names], adopted(sql)


def position(sql: Sql) -> int:
    """Return up to where the stream's work is done, as others see it."""
    ((value,),) = sql.execute(
        "SELECT position FROM walex_django_checkpoint WHERE stream = 'default'"
    )
    return int(value)


def cut_stream(sql: Sql) -> None:
    """End the server's side of the stream; its listener, at work, sees it later."""
    sql.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
        " WHERE slot_name = 'zoo_walex'"
    )
    eventually(lambda: not _in_use(sql), "the end of the stream")


def _in_use(sql: Sql) -> bool:
    slot = slots.find(sql, "zoo_walex")
    return slot is not None and slot.active_pid is not None


def acknowledged(sql: Sql, lsn: int) -> bool:
    """Return whether the server was told that all before a position is done."""
    found = sql.execute(
        "SELECT FROM pg_replication_slots WHERE slot_name = 'zoo_walex'"
        " AND confirmed_flush_lsn - '0/0' > %s",
        [lsn],
    )
    return found.fetchone() is not None
