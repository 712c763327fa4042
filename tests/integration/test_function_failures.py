"""Failing functions of handlers, and functions with ``ATOMIC``."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from tests.listening import Listening
from tests.process import eventually
from tests.zoo.models import Keeper, Mascot
from walex_django import Event, on_insert
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.models import ParkedEvent

from .handling import Function, Recorder, label, wait_until_done
from .mascots import Gate, wait_until_adopted
from .stream import Stream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

Sql = psycopg.Connection[Any]
NAME = "tests.integration.handling.function"


@pytest.fixture
def fast_retries(config: StreamConfig) -> StreamConfig:
    """A stream with two retries and almost no delay."""
    return replace(config, max_retries=2, retry_backoff=0.001)


class TestFailures:
    """Only the failed call is retried."""

    def test_failed_function_is_retried(self, fast_retries: StreamConfig) -> None:
        failing, working, heard = Function(failures=2), Function("working"), Recorder()
        on_insert(Keeper, functions=[failing, working])(heard)
        with Listening(fast_retries) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert failing.calls == ["insert Ada"] * 3
        assert working.calls == ["insert Ada"]
        assert heard.labels == [["insert Ada"]]
        assert not ParkedEvent.objects.exists()

    @pytest.mark.parametrize("is_async", [False, True])
    def test_failed_function_is_parked_and_replayed(
        self, fast_retries: StreamConfig, is_async: bool
    ) -> None:
        failing: Any = Function(failures=3)
        if is_async:
            failing = _as_coroutine(failing)
        on_insert(Keeper, functions=[failing])(Recorder())
        with Listening(fast_retries) as listening:
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

    def test_replay_does_not_guess_between_functions_of_same_name(
        self, fast_retries: StreamConfig
    ) -> None:
        failing, other = Function(failures=3), Function()
        on_insert(Keeper, functions=[failing, other])(Recorder())
        with Listening(fast_retries) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        with pytest.raises(CommandError, match="stay parked"):
            run("walex_replay")
        assert (len(failing.calls), len(other.calls)) == (3, 1)
        assert ParkedEvent.objects.count() == 1

    def test_partial_is_parked_as_its_function(
        self, fast_retries: StreamConfig
    ) -> None:
        failing = Function(failures=3)
        on_insert(Keeper, functions=[partial(failing)])(Recorder())
        with Listening(fast_retries) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert ParkedEvent.objects.get().receiver == NAME
        assert run("walex_replay") == "1 delivered, 0 failed again\n"

    def test_failed_function_does_not_block_others(
        self, fast_retries: StreamConfig
    ) -> None:
        def fail(event: Event) -> None:
            raise SystemExit(1)

        working = Function("working")
        on_insert(Keeper, functions=[fail, working])(Recorder())
        with Listening(fast_retries) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            wait_until_done(listening)
        assert ParkedEvent.objects.count() == 2
        assert sorted(working.calls) == ["insert Ada", "insert Bob"]

    def test_broken_connection_is_replaced_before_retry(
        self, fast_retries: StreamConfig
    ) -> None:
        tries: list[int] = []

        def adopt(event: Event) -> None:
            tries.append(1)
            with connection.cursor() as cursor:
                if len(tries) == 1:
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            Mascot.objects.create(name=label(event))

        on_insert(Keeper, functions=[adopt])(Recorder())
        with Listening(fast_retries) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert list(Mascot.objects.values_list("name", flat=True)) == ["insert Ada"]

    def test_on_error_stop_ends_stream(self, fast_retries: StreamConfig) -> None:
        on_insert(Keeper, functions=[Function(failures=3)])(Recorder())
        with Listening(replace(fast_retries, on_error="stop")) as listening:
            Keeper.objects.create(name="Ada")
            error = listening.wait_for_end()
        assert isinstance(error, ReceiverFailed)
        assert error.receiver == NAME
        assert not ParkedEvent.objects.exists()

    def test_handler_that_ends_stream_waits_for_its_functions(
        self, fast_retries: StreamConfig
    ) -> None:
        gate = Gate()
        on_insert(Keeper, functions=[Function(gate=gate)])(Recorder(failures=3))
        with Listening(replace(fast_retries, on_error="stop")) as listening:
            Keeper.objects.create(name="Ada")
            gate.wait()
            assert listening.error is None
            gate.open()
            assert isinstance(listening.wait_for_end(), ReceiverFailed)
        assert not any(
            thread.name.startswith("walex-function") for thread in threading.enumerate()
        )


class TestAtomic:
    """With ``ATOMIC`` functions run outside the database transaction."""

    def test_function_commits_immediately(self, atomic: StreamConfig, sql: Sql) -> None:
        gate = Gate()

        def adopt(event: Event) -> None:
            Mascot.objects.create(name=label(event))

        def wait(events: list[Event]) -> None:
            gate()

        on_insert(Keeper, functions=[adopt])(wait)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            gate.wait()
            wait_until_adopted(sql, "insert Ada")
            gate.open()

    def test_retry_is_outside_transaction(self, atomic: StreamConfig, sql: Sql) -> None:
        gate = Gate()
        tries: list[bool] = []

        def adopt(event: Event) -> None:
            tries.append(connection.in_atomic_block)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 / {len(tries) - 1}")
            Mascot.objects.create(name=label(event))

        def wait(events: list[Event]) -> None:
            gate()

        on_insert(Keeper, functions=[adopt])(Recorder())
        on_insert(Keeper, functions=[Function("slow", gate=gate)])(Recorder("last"))
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            gate.wait()
            wait_until_adopted(sql, "insert Ada")
            gate.open()
        assert tries == [False, False]

    def test_failed_function_is_parked(self, atomic: StreamConfig, sql: Sql) -> None:
        def adopt(events: list[Event]) -> None:
            Mascot.objects.create(name="by the handler")

        on_insert(Keeper, functions=[Function(failures=2)])(adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "by the handler")
        assert ParkedEvent.objects.get().receiver == NAME


def test_listener_killed_during_function_loses_nothing(
    stream: Stream, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    stream.env |= {"ZOO_HANDLED": str(notes)}
    with stream.blocked(1), stream.listening() as listener:
        stream.execute(
            "INSERT INTO zoo_keeper (name) VALUES ('Ada'), ('function waits for 1')"
        )
        eventually(stream.is_blocked, "the work of the function")
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


def run(*arguments: str) -> str:
    """Run a command and return what it printed."""
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()
