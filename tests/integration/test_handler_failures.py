"""Failing handlers, and handlers in the transaction of ``ATOMIC``."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from tests.listening import Connect, Listening
from tests.zoo.models import Keeper, Mascot
from walex_django import Event, on_insert
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.models import ParkedEvent
from walex_django.signals import post_db_insert, post_db_transaction

from .handling import Recorder, label, wait_until_done
from .mascots import Gate, adopted, wait_until_adopted

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

Sql = psycopg.Connection[Any]


@pytest.fixture
def fast_retries(config: StreamConfig) -> StreamConfig:
    """A stream with two retries and almost no delay."""
    return replace(config, max_retries=2, retry_backoff=0.001)


class TestFailures:
    """Only the failed handler is retried, with the same list."""

    def test_failed_handler_is_retried(self, fast_retries: StreamConfig) -> None:
        failing, working = Recorder("failing", failures=2), Recorder("working")
        on_insert(Keeper)(failing)
        on_insert(Keeper)(working)
        with Listening(fast_retries) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            wait_until_done(listening)
        assert failing.labels == [["insert Ada", "insert Bob"]] * 3
        assert working.labels == [["insert Ada", "insert Bob"]]
        assert not ParkedEvent.objects.exists()

    def test_failed_chunk_is_parked_and_replayed(
        self, fast_retries: StreamConfig
    ) -> None:
        failing, working = Recorder("failing", failures=3), Recorder("working")
        on_insert(Keeper, unwatched_records={"name": "1"})(failing)
        on_insert(Keeper)(working)
        with Listening(replace(fast_retries, max_batch=3)) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(7))
            wait_until_done(listening)
        first = ["insert 0", "insert 2"]
        rest = [["insert 3", "insert 4", "insert 5"], ["insert 6"]]
        assert failing.labels == [first] * 3 + rest
        assert working.labels == [["insert 0", "insert 1", "insert 2"], *rest]

        parked = ParkedEvent.objects.get()
        assert (parked.signal, parked.receiver) == (
            "on_insert",
            "tests.integration.handling.failing",
        )
        assert (parked.event_id, parked.table) == (
            listening.events[0].id,
            "public.zoo_keeper",
        )
        assert parked.attempts == 3
        assert parked.error == "ValueError: not in the mood"

        failing.lists.clear()
        assert run("walex_replay") == "1 delivered, 0 failed again\n"
        assert failing.labels == [first]
        assert failing.lists[0][0].instance == listening.events[0].instance
        assert not ParkedEvent.objects.exists()

    def test_failed_async_handler_is_parked_and_replayed(
        self, fast_retries: StreamConfig
    ) -> None:
        lists: list[list[str]] = []

        async def failing(events: list[Event]) -> None:
            await asyncio.sleep(0)
            lists.append([label(event) for event in events])
            if len(lists) <= 3:
                raise ValueError

        on_insert(Keeper)(failing)
        with Listening(fast_retries) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert ParkedEvent.objects.count() == 1
        assert run("walex_replay") == "1 delivered, 0 failed again\n"
        assert lists == [["insert Ada"]] * 4

    def test_on_error_skip_logs_and_continues(
        self, fast_retries: StreamConfig, caplog: pytest.LogCaptureFixture
    ) -> None:
        failing, working = Recorder("failing", failures=3), Recorder("working")
        on_insert(Keeper)(failing)
        on_insert(Keeper)(working)
        with (
            caplog.at_level(logging.ERROR, "walex_django.delivery.dispatch"),
            Listening(replace(fast_retries, on_error="skip")) as listening,
        ):
            Keeper.objects.create(name="Ada")
            Keeper.objects.create(name="Bob")
            wait_until_done(listening)
        assert failing.labels == [["insert Ada"]] * 3 + [["insert Bob"]]
        assert working.labels == [["insert Ada"], ["insert Bob"]]
        assert not ParkedEvent.objects.exists()
        assert "handling.failing failed 3 times" in caplog.text

    def test_on_error_stop_ends_stream(self, fast_retries: StreamConfig) -> None:
        failing, working = Recorder("failing", failures=3), Recorder("working")
        on_insert(Keeper)(failing)
        on_insert(Keeper)(working)
        with Listening(replace(fast_retries, on_error="stop")) as listening:
            Keeper.objects.create(name="Ada")
            error = listening.wait_for_end()
        assert isinstance(error, ReceiverFailed)
        assert error.receiver == "tests.integration.handling.failing"
        assert working.lists == []

    def test_each_retry_gets_the_complete_list_of_events(
        self, fast_retries: StreamConfig, connect: Connect
    ) -> None:
        counts: list[int] = []

        def consume(events: list[Event], **kwargs: Any) -> None:
            if len(events) == 1:
                return
            counts.append(len(events))
            events.clear()
            raise ValueError

        connect(post_db_transaction, consume)
        with Listening(fast_retries) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            wait_until_done(listening)
        assert counts == [2, 2, 2]
        assert len(ParkedEvent.objects.get().arguments["events"]) == 2


def test_receiver_of_one_stream_is_parked_and_replayed(
    fast_retries: StreamConfig,
) -> None:
    calls: list[str] = []

    def failing(event: Event, stream: str, **kwargs: Any) -> None:
        calls.append(f"{stream} {label(event)}")
        if len(calls) <= 3:
            raise ValueError

    post_db_insert.connect(failing, sender=Keeper, stream="default")
    try:
        with Listening(fast_retries) as listening:
            Keeper.objects.create(name="Ada")
            wait_until_done(listening)
        assert ParkedEvent.objects.get().signal == "post_db_insert"
        assert run("walex_replay") == "1 delivered, 0 failed again\n"
    finally:
        assert post_db_insert.disconnect(failing, sender=Keeper, stream="default")
    assert calls == ["default insert Ada"] * 4


class TestAtomic:
    """With ``ATOMIC`` handlers are part of the transaction."""

    def test_work_is_committed_with_checkpoint(
        self, atomic: StreamConfig, sql: Sql
    ) -> None:
        gate = Gate()

        def adopt(events: list[Event]) -> None:
            Mascot.objects.bulk_create(Mascot(name=label(each)) for each in events)

        def wait(events: list[Event]) -> None:
            gate()

        on_insert(Keeper)(adopt)
        on_insert(Keeper)(wait)
        with Listening(atomic):
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            gate.wait()
            assert adopted(sql) == []
            gate.open()
            wait_until_adopted(sql, "insert Ada", "insert Bob")

    def test_failed_attempt_is_rolled_back(
        self, atomic: StreamConfig, sql: Sql
    ) -> None:
        tries: list[int] = []

        def adopt(events: list[Event]) -> None:
            tries.append(len(events))
            Mascot.objects.create(name=f"try {len(tries)}")
            if len(tries) == 1:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1 / 0")

        on_insert(Keeper)(adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "try 2")
        assert not ParkedEvent.objects.exists()


def run(*arguments: str) -> str:
    """Run a command and return what it printed."""
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()
