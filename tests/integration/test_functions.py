"""Functions of handlers: called with each event, in threads beside the handler."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from functools import partial
from threading import Barrier
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone

from tests.listening import TIMEOUT, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper, Temperature
from walex_django import Event, on_event, on_insert
from walex_django.conf.stream import StreamConfig

from .handling import Function, Heard, label, wait_until_done
from .mascots import Gate, acknowledged

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

Sql = psycopg.Connection[Any]
NAME = "tests.integration.handling.function"


calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    """Forget what was noted before."""
    calls.clear()


def note(event: Event) -> None:
    """Note a call: named by the tests in all the ways there are."""
    calls.append(label(event))


async def note_later(event: Event) -> None:
    """Note a call and what the database has, from a coroutine."""
    await asyncio.sleep(0)
    calls.append(f"{label(event)} of {await Keeper.objects.acount()}")


class TestNames:
    """What may be written in ``functions``."""

    @pytest.mark.parametrize(
        "function",
        [
            note,
            "tests.integration.test_functions.note",
            ("tests.integration.test_functions", "note"),
            (sys.modules[__name__], "note"),
            partial(note),
        ],
        ids=["callable", "path", "pair", "module", "partial"],
    )
    def test_one(self, config: StreamConfig, function: Any) -> None:
        on_insert(Keeper, functions=[function])(Heard())
        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            listening.wait_for(1)
        assert calls == ["insert Ada"]

    def test_a_name_of_the_own_module(self, config: StreamConfig) -> None:
        @on_insert(Keeper, functions=["defined_below"])
        def keepers(events: list[Event]) -> None:
            pass

        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            listening.wait_for(1)
        assert calls == ["below insert Ada"]

    def test_async(self, config: StreamConfig) -> None:
        on_insert(Keeper, functions=[note_later])(Heard())
        with Listening(config) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            listening.wait_for(2)
        assert sorted(calls) == ["insert Ada of 2", "insert Bob of 2"]

    def test_what_is_called_are_the_handlers_own_events(
        self, config: StreamConfig
    ) -> None:
        first, second = Function("first"), Function("second")
        on_insert(Keeper, functions=[first, second], where=is_not_bob)(Heard("some"))
        on_event([Keeper, Animal], functions=[second])(Heard("all"))
        with Listening(config) as listening:
            with transaction.atomic():
                Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
                Animal.objects.create(name="Leo")
            listening.wait_for(3)
        assert sorted(first.calls) == ["insert Ada"]
        assert sorted(second.calls) == [
            *("insert Ada", "insert Ada", "insert Bob", "insert Leo")
        ]


def defined_below(event: Event) -> None:
    calls.append(f"below {label(event)}")


def is_not_bob(event: Event) -> bool:
    return label(event) != "insert Bob"


class TestBeside:
    """Functions run beside their handler, and beside each other."""

    def test_the_handler_does_not_wait_for_a_function(
        self, config: StreamConfig
    ) -> None:
        gate = Gate()
        function, heard = Function(gate=gate), Heard()
        on_insert(Keeper, functions=[function])(heard)
        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            gate.wait()
            listening.wait_until(lambda: bool(listening.events))
            eventually(lambda: heard.labels == [["insert Ada"]], "the handler's call")
            gate.open()

    def test_a_function_does_not_wait_for_the_handler(
        self, config: StreamConfig
    ) -> None:
        gate = Gate()
        function = Function()

        def wait(events: list[Event]) -> None:
            gate()

        on_insert(Keeper, functions=[function])(wait)
        with Listening(config):
            Keeper.objects.create(name="Ada")
            gate.wait()
            eventually(lambda: function.calls == ["insert Ada"], "the function's call")
            gate.open()

    def test_so_many_run_at_once(self, config: StreamConfig) -> None:
        # The handler and nine calls: none of them ends before all have begun.
        together = Barrier(10)
        threads: set[str] = set()

        def meet(event: Event) -> None:
            together.wait(TIMEOUT)
            threads.add(threading.current_thread().name)

        def meet_too(events: list[Event]) -> None:
            together.wait(TIMEOUT)

        on_insert(Keeper, functions=[meet] * 3)(meet_too)
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(3))
            listening.wait_for(3)
        assert not together.broken
        assert len(threads) == 9

    def test_more_calls_than_threads(self, config: StreamConfig) -> None:
        function = Function()
        on_insert(Keeper, functions=[function])(Heard())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(500))
            listening.wait_for(500)
        assert sorted(function.calls) == sorted(f"insert {n}" for n in range(500))
        assert _threads() == []

    def test_they_read_the_same_events(self, config: StreamConfig) -> None:
        together = Barrier(8)
        seen: list[tuple[Any, Any]] = []

        def read(event: Event) -> None:
            together.wait(TIMEOUT)
            seen.append((event.instance, event.new_record))

        on_insert(Animal, functions=[read] * 8)(Heard())
        with Listening(config) as listening:
            with transaction.atomic():
                for number in range(30):
                    comfort: Any = Temperature(number)
                    Animal.objects.create(
                        name=f"Leo {number}",
                        born_at=timezone.now(),
                        weight=Decimal(number),
                        tags=["a", str(number)],
                        habits={"eats": [number]},
                        comfort=comfort,
                    )
            listening.wait_for(30)
        animals = {animal.pk: animal for animal in Animal.objects.all()}
        assert len(seen) == 240
        for instance, record in seen:
            for field in Animal._meta.concrete_fields:
                expected = getattr(animals[instance.pk], field.attname)
                assert getattr(instance, field.attname) == expected
            assert record["tags"] == instance.tags
            assert record["habits"] == instance.habits

    def test_the_transaction_is_acknowledged_when_they_are_done(
        self, durable: StreamConfig, sql: Sql
    ) -> None:
        gate, last = Gate(), Gate()
        on_insert(Keeper, functions=[Function(gate=gate)], where=is_not_bob)(Heard())

        def bob_came(events: list[Event]) -> None:
            last()

        on_insert(Keeper, where=is_bob)(bob_came)
        with Listening(replace(durable, status_interval=0.05)) as listening:
            Keeper.objects.create(name="Ada")
            Keeper.objects.create(name="Bob")
            gate.wait()
            (ada,) = listening.events
            # The server hears from us all the time, of what it is allowed to forget.
            _hear_of_us(sql, times=3)
            assert not acknowledged(sql, ada.lsn)
            gate.open()
            last.wait()
            eventually(lambda: acknowledged(sql, ada.lsn), "the acknowledgement")
            last.open()


def is_bob(event: Event) -> bool:
    return label(event) == "insert Bob"


class TestConnections:
    """Each thread has connections of its own, until the stream ends."""

    def test_they_are_closed_at_the_end(
        self, config: StreamConfig, sql: Sql, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Kept for an hour, were it not for the end.
        monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 3600)
        together = Barrier(5)

        def look(event: Event) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = 'of a function'")
            together.wait(TIMEOUT)

        on_insert(Keeper, functions=[look])(Heard())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(5))
            listening.wait_for(5)
            wait_until_done(listening)
            assert _connections(sql) == 5
        eventually(lambda: _connections(sql) == 0, "the end of the connections")

    def test_none_stays_open_while_nothing_happens(
        self, config: StreamConfig, sql: Sql
    ) -> None:
        together = Barrier(5)

        def look(event: Event) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = 'of a function'")
            together.wait(TIMEOUT)

        on_insert(Keeper, functions=[look])(Heard())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(5))
            listening.wait_for(5)
            wait_until_done(listening)
            eventually(lambda: _connections(sql) == 0, "the end of the connections")

    def test_calls_that_wait_need_no_new_ones(
        self, config: StreamConfig, sql: Sql
    ) -> None:
        backends: set[int] = set()

        def look(event: Event) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                backends.add(cursor.fetchone()[0])

        on_insert(Keeper, functions=[look])(Heard())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(300))
            listening.wait_for(300)
            wait_until_done(listening)
        # Of ten threads; a few more where one of them was idle for a moment.
        assert len(backends) < 150


def _threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("walex-function")]


def _connections(sql: Sql) -> int:
    ((count,),) = sql.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'of a function'"
    )
    return int(count)


def _hear_of_us(sql: Sql, *, times: int) -> None:
    """Wait until the server has heard from the listener so many times."""
    heard: set[Any] = set()

    def look() -> bool:
        heard.update(sql.execute("SELECT reply_time FROM pg_stat_replication"))
        return len(heard) > times

    eventually(look, "signs of life")
