"""Functions of handlers, called with each event in threads alongside the handler."""

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

from .handling import Function, Recorder, label, wait_until_done
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
    """Clear the recorded calls."""
    calls.clear()


def record_call(event: Event) -> None:
    """Record a call. The tests refer to this function in every supported way."""
    calls.append(label(event))


async def record_call_async(event: Event) -> None:
    """Record a call and the number of keepers, in a coroutine."""
    await asyncio.sleep(0)
    calls.append(f"{label(event)} of {await Keeper.objects.acount()}")


class TestNames:
    """Values that ``functions`` accepts."""

    @pytest.mark.parametrize(
        "function",
        [
            record_call,
            "tests.integration.test_functions.record_call",
            ("tests.integration.test_functions", "record_call"),
            (sys.modules[__name__], "record_call"),
            partial(record_call),
        ],
        ids=["callable", "path", "pair", "module", "partial"],
    )
    def test_function_can_be_given_as(
        self, config: StreamConfig, function: Any
    ) -> None:
        on_insert(Keeper, functions=[function])(Recorder())
        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            listening.wait_for(1)
        assert calls == ["insert Ada"]

    def test_function_can_be_named_in_own_module(self, config: StreamConfig) -> None:
        @on_insert(Keeper, functions=["defined_below"])
        def keepers(events: list[Event]) -> None:
            pass

        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            listening.wait_for(1)
        assert calls == ["below insert Ada"]

    def test_function_can_be_async(self, config: StreamConfig) -> None:
        on_insert(Keeper, functions=[record_call_async])(Recorder())
        with Listening(config) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            listening.wait_for(2)
        assert sorted(calls) == ["insert Ada of 2", "insert Bob of 2"]

    def test_functions_get_events_of_their_handler(self, config: StreamConfig) -> None:
        first, second = Function("first"), Function("second")
        on_insert(Keeper, functions=[first, second], where=is_not_bob)(Recorder("some"))
        on_event([Keeper, Animal], functions=[second])(Recorder("all"))
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


class TestConcurrency:
    """Functions run concurrently with their handler and with each other."""

    def test_handler_does_not_wait_for_function(self, config: StreamConfig) -> None:
        gate = Gate()
        function, heard = Function(gate=gate), Recorder()
        on_insert(Keeper, functions=[function])(heard)
        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            gate.wait()
            listening.wait_until(lambda: bool(listening.events))
            eventually(lambda: heard.labels == [["insert Ada"]], "the handler's call")
            gate.open()

    def test_function_does_not_wait_for_handler(self, config: StreamConfig) -> None:
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

    def test_functions_run_in_parallel(self, config: StreamConfig) -> None:
        # The handler and nine calls: no call returns before all have started.
        together = Barrier(10)
        threads: set[str] = set()

        def meet(event: Event) -> None:
            together.wait(TIMEOUT)
            threads.add(threading.current_thread().name)

        def meet_in_handler(events: list[Event]) -> None:
            together.wait(TIMEOUT)

        on_insert(Keeper, functions=[meet] * 3)(meet_in_handler)
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(3))
            listening.wait_for(3)
        assert not together.broken
        assert len(threads) == 9

    def test_more_calls_than_threads(self, config: StreamConfig) -> None:
        function = Function()
        on_insert(Keeper, functions=[function])(Recorder())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(500))
            listening.wait_for(500)
        assert sorted(function.calls) == sorted(f"insert {n}" for n in range(500))
        assert _threads() == []

    def test_functions_can_read_the_same_event_concurrently(
        self, config: StreamConfig
    ) -> None:
        together = Barrier(8)
        seen: list[tuple[Any, Any]] = []

        def read(event: Event) -> None:
            together.wait(TIMEOUT)
            seen.append((event.instance, event.new_record))

        on_insert(Animal, functions=[read] * 8)(Recorder())
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

    def test_transaction_is_acknowledged_after_its_functions(
        self, durable: StreamConfig, sql: Sql
    ) -> None:
        gate, last = Gate(), Gate()
        on_insert(Keeper, functions=[Function(gate=gate)], where=is_not_bob)(Recorder())

        def bob_arrived(events: list[Event]) -> None:
            last()

        on_insert(Keeper, where=is_bob)(bob_arrived)
        with Listening(replace(durable, status_interval=0.05)) as listening:
            Keeper.objects.create(name="Ada")
            Keeper.objects.create(name="Bob")
            gate.wait()
            (ada,) = listening.events
            # The listener keeps replying to the server with its confirmed position.
            _wait_for_replies(sql, times=3)
            assert not acknowledged(sql, ada.lsn)
            gate.open()
            last.wait()
            eventually(lambda: acknowledged(sql, ada.lsn), "the acknowledgement")
            last.open()


def is_bob(event: Event) -> bool:
    return label(event) == "insert Bob"


class TestConnections:
    """Each thread has its own connections until the stream ends."""

    def test_connections_are_closed_when_stream_ends(
        self, config: StreamConfig, sql: Sql, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Connections would stay open for an hour if the stream didn't end.
        monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 3600)
        together = Barrier(5)

        def look(event: Event) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = 'of a function'")
            together.wait(TIMEOUT)

        on_insert(Keeper, functions=[look])(Recorder())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(5))
            listening.wait_for(5)
            wait_until_done(listening)
            assert _connections(sql) == 5
        eventually(lambda: _connections(sql) == 0, "the end of the connections")

    def test_idle_threads_keep_no_connection(
        self, config: StreamConfig, sql: Sql
    ) -> None:
        together = Barrier(5)

        def look(event: Event) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = 'of a function'")
            together.wait(TIMEOUT)

        on_insert(Keeper, functions=[look])(Recorder())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(5))
            listening.wait_for(5)
            wait_until_done(listening)
            eventually(lambda: _connections(sql) == 0, "the end of the connections")

    def test_queued_calls_reuse_connections(
        self, config: StreamConfig, sql: Sql
    ) -> None:
        backends: set[int] = set()

        def look(event: Event) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                backends.add(cursor.fetchone()[0])

        on_insert(Keeper, functions=[look])(Recorder())
        with Listening(config) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(300))
            listening.wait_for(300)
            wait_until_done(listening)
        # Ten threads, and a few more connections where a thread was briefly idle.
        assert len(backends) < 150


def _threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("walex-function")]


def _connections(sql: Sql) -> int:
    ((count,),) = sql.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'of a function'"
    )
    return int(count)


def _wait_for_replies(sql: Sql, *, times: int) -> None:
    """Wait until the server has received that many replies from the listener."""
    replies: set[Any] = set()

    def look() -> bool:
        replies.update(sql.execute("SELECT reply_time FROM pg_stat_replication"))
        return len(replies) > times

    eventually(look, "the replies")
