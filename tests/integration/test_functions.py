"""Functions of handlers: called with each event, in threads beside the handler."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction

from tests.listening import TIMEOUT, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper, Mascot
from walex_django import Event, on_event, on_insert
from walex_django.conf import StreamConfig
from walex_django.delivery import ReceiverFailed
from walex_django.models import ParkedEvent

from .handling import Function, Heard, label, wait_until_done
from .mascots import Gate, acknowledged, will_have_adopted
from .stream import Stream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

Sql = psycopg.Connection[Any]
NAME = "tests.integration.handling.function"


@pytest.fixture
def hasty(config: StreamConfig) -> StreamConfig:
    """Two retries, at once."""
    return replace(config, max_retries=2, retry_backoff=0.001)


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


class TestFailures:
    """A call that fails is made again, it alone."""

    def test_retried(self, hasty: StreamConfig) -> None:
        moody, calm, heard = Function(failures=2), Function("calm"), Heard()
        on_insert(Keeper, functions=[moody, calm])(heard)
        with Listening(hasty) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert moody.calls == ["insert Ada"] * 3
        assert calm.calls == ["insert Ada"]
        assert heard.labels == [["insert Ada"]]
        assert not ParkedEvent.objects.exists()

    @pytest.mark.parametrize("is_async", [False, True])
    def test_parked_and_replayed(self, hasty: StreamConfig, is_async: bool) -> None:
        moody: Any = Function(failures=3)
        if is_async:
            moody = _as_coroutine(moody)
        on_insert(Keeper, functions=[moody])(Heard())
        with Listening(hasty) as listening:
            Keeper.objects.create(name="Ada")
            (event,) = listening.wait_for(1)
            wait_until_done(listening)
        parked = ParkedEvent.objects.get()
        assert (parked.signal, parked.receiver) == ("function", NAME)
        assert (parked.event_id, parked.table) == (event.id, "public.zoo_keeper")
        assert parked.attempts == 3
        assert parked.error == "ValueError: not in the mood"

        assert run("walex_replay") == "1 delivered, 0 failed again\n"
        assert not ParkedEvent.objects.exists()

    def test_what_fails_to_the_last_does_not_keep_the_others_from_it(
        self, hasty: StreamConfig
    ) -> None:
        def fail(event: Event) -> None:
            raise SystemExit(1)

        calm = Function("calm")
        on_insert(Keeper, functions=[fail, calm])(Heard())
        with Listening(hasty) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            wait_until_done(listening)
        assert ParkedEvent.objects.count() == 2
        assert sorted(calm.calls) == ["insert Ada", "insert Bob"]

    def test_a_broken_connection_is_another_at_the_next_try(
        self, hasty: StreamConfig
    ) -> None:
        tries: list[int] = []

        def adopt(event: Event) -> None:
            tries.append(1)
            with connection.cursor() as cursor:
                if len(tries) == 1:
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            Mascot.objects.create(name=label(event))

        on_insert(Keeper, functions=[adopt])(Heard())
        with Listening(hasty) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert list(Mascot.objects.values_list("name", flat=True)) == ["insert Ada"]

    def test_stop(self, hasty: StreamConfig) -> None:
        on_insert(Keeper, functions=[Function(failures=3)])(Heard())
        with Listening(replace(hasty, on_error="stop")) as listening:
            Keeper.objects.create(name="Ada")
            error = listening.wait_for_end()
        assert isinstance(error, ReceiverFailed)
        assert error.receiver == NAME
        assert not ParkedEvent.objects.exists()

    def test_a_handler_that_ends_the_stream_waits_for_its_functions(
        self, hasty: StreamConfig
    ) -> None:
        gate = Gate()
        on_insert(Keeper, functions=[Function(gate=gate)])(Heard(failures=3))
        with Listening(replace(hasty, on_error="stop")) as listening:
            Keeper.objects.create(name="Ada")
            gate.wait()
            assert listening.error is None
            gate.open()
            assert isinstance(listening.wait_for_end(), ReceiverFailed)
        assert _threads() == []


class TestAtomic:
    """With ``ATOMIC`` functions are no part of the database transaction."""

    def test_work_is_seen_at_once(self, atomic: StreamConfig, sql: Sql) -> None:
        gate = Gate()

        def adopt(event: Event) -> None:
            Mascot.objects.create(name=label(event))

        def wait(events: list[Event]) -> None:
            gate()

        on_insert(Keeper, functions=[adopt])(wait)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            gate.wait()
            will_have_adopted(sql, "insert Ada")
            gate.open()

    def test_a_retry_is_no_part_of_it_either(
        self, atomic: StreamConfig, sql: Sql
    ) -> None:
        gate = Gate()
        tries: list[bool] = []

        def adopt(event: Event) -> None:
            tries.append(connection.in_atomic_block)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 / {len(tries) - 1}")
            Mascot.objects.create(name=label(event))

        def wait(events: list[Event]) -> None:
            gate()

        on_insert(Keeper, functions=[adopt])(Heard())
        on_insert(Keeper, functions=[Function("slow", gate=gate)])(Heard("last"))
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            gate.wait()
            will_have_adopted(sql, "insert Ada")
            gate.open()
        assert tries == [False, False]

    def test_one_that_fails_is_parked(self, atomic: StreamConfig, sql: Sql) -> None:
        def adopt(events: list[Event]) -> None:
            Mascot.objects.create(name="by the handler")

        on_insert(Keeper, functions=[Function(failures=2)])(adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            will_have_adopted(sql, "by the handler")
        assert ParkedEvent.objects.get().receiver == NAME


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


def test_a_listener_killed_at_a_function_loses_nothing(
    stream: Stream, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    stream.env |= {"ZOO_HANDLED": str(notes)}
    with stream.held(1), stream.listening() as listener:
        stream.execute(
            "INSERT INTO zoo_keeper (name) VALUES ('Ada'), ('function waits for 1')"
        )
        eventually(stream.is_held, "the work of the function")
        eventually(lambda: "function Ada" in _lines(notes), "the other call")
        listener.signal(signal.SIGKILL)
        listener.wait()
    assert not stream.acknowledged("Ada")
    assert "function function waits for 1" not in _lines(notes)

    notes.unlink()
    with stream.listening() as listener:
        eventually(lambda: len(_lines(notes)) >= 3, "all of the transaction")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0, listener.output
    assert sorted(_lines(notes)) == [
        "function Ada",
        "function function waits for 1",
        "keepers Ada, function waits for 1",
    ]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _as_coroutine(function: Function) -> Callable[..., Any]:
    async def call(event: Event) -> None:
        await asyncio.sleep(0)
        function(event)

    call.__module__, call.__qualname__ = function.__module__, function.__qualname__
    return call


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


def run(*arguments: str) -> str:
    """Run a command and return what it printed."""
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()
