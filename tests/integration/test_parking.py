"""Calls of failing receivers are retried, then parked, skipped, or stop the stream."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper
from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.models import ParkedEvent
from walex_django.signals import (
    post_db_change,
    post_db_insert,
    post_db_message,
    post_db_transaction,
)

from .test_replay import make_atomic

pytestmark = pytest.mark.django_db(transaction=True)


class Moody:
    """A receiver that raises for keepers of one name, a given number of times."""

    def __init__(self, bad: str = "bad", times: float = float("inf")) -> None:
        self.bad, self.times = bad, times
        self.calls: list[str] = []

    def __call__(self, event: Event, **kwargs: Any) -> None:
        name = (event.new_record or {})["name"]
        self.calls.append(name)
        if name == self.bad and self.times > 0:
            self.times -= 1
            raise ValueError(f"{name} is bad")


NAME = "tests.integration.test_parking.Moody"


@pytest.fixture
def hasty(config: StreamConfig) -> StreamConfig:
    """A stream with two immediate retries."""
    return replace(config, max_retries=2, retry_backoff=0.001)


def test_single_failure_is_retried_and_not_parked(
    hasty: StreamConfig, connect: Connect
) -> None:
    moody, calm = Moody(times=1), Moody(bad="")
    connect(post_db_insert, moody)
    connect(post_db_insert, calm)
    with Listening(hasty) as listening:
        Keeper.objects.bulk_create([Keeper(name="bad"), Keeper(name="good")])
        listening.wait_for(2)

    assert moody.calls == ["bad", "bad", "good"]
    assert calm.calls == ["bad", "good"]
    assert not ParkedEvent.objects.exists()


def test_event_is_parked_after_the_last_retry(
    hasty: StreamConfig, connect: Connect
) -> None:
    moody, calm = Moody(), Moody(bad="")
    connect(post_db_insert, moody)
    connect(post_db_insert, calm)
    with Listening(hasty) as listening:
        Keeper.objects.create(name="bad")
        Keeper.objects.create(name="good")
        bad, _ = listening.wait_for(2)

    assert moody.calls == ["bad"] * 3 + ["good"]
    assert calm.calls == ["bad", "good"]
    parked = ParkedEvent.objects.get()
    assert (parked.stream, parked.signal, parked.receiver) == (
        "default",
        "post_db_insert",
        NAME,
    )
    assert (parked.event_id, parked.table) == (bad.id, "public.zoo_keeper")
    assert parked.attempts == 3
    assert parked.error == "ValueError: bad is bad"
    assert "in __call__" in parked.traceback
    assert parked.arguments == {"event": bad.as_dict()}


def test_parked_events_are_acknowledged(
    durable: StreamConfig, connect: Connect, sql: psycopg.Connection[Any]
) -> None:
    connect(post_db_insert, Moody())
    with Listening(replace(durable, max_retries=0)) as listening:
        Keeper.objects.create(name="bad")
        (event,) = listening.wait_for(1)
        eventually(
            lambda: (
                sql.execute(
                    "SELECT FROM pg_replication_slots WHERE confirmed_flush_lsn > %s",
                    [str(event.lsn)],
                ).fetchone()
                is not None
            )
        )
    assert ParkedEvent.objects.count() == 1


def test_skip_continues_and_parks_nothing(
    hasty: StreamConfig, connect: Connect
) -> None:
    moody = Moody()
    connect(post_db_insert, moody)
    with Listening(replace(hasty, on_error="skip")) as listening:
        Keeper.objects.bulk_create([Keeper(name="bad"), Keeper(name="good")])
        listening.wait_for(2)

    assert moody.calls == ["bad"] * 3 + ["good"]
    assert not ParkedEvent.objects.exists()


def test_stop_ends_the_stream(hasty: StreamConfig, connect: Connect) -> None:
    moody = Moody()
    connect(post_db_insert, moody)
    with Listening(replace(hasty, on_error="stop")) as listening:
        Keeper.objects.bulk_create([Keeper(name="bad"), Keeper(name="good")])
        error = listening.wait_for_end()

    assert isinstance(error, ReceiverFailed)
    assert error.receiver == NAME
    assert moody.calls == ["bad"] * 3
    assert not ParkedEvent.objects.exists()


def test_stop_does_not_wait_for_retries(
    durable: StreamConfig, connect: Connect
) -> None:
    moody = Moody()
    connect(post_db_insert, moody)
    with Listening(replace(durable, retry_backoff=3600)) as listening:
        Keeper.objects.create(name="bad")
        eventually(lambda: moody.calls == ["bad"])
        listening.stop()
        assert listening.error is None

    moody.times = 0
    with Listening(durable) as listening:
        listening.wait_for(1)
    assert moody.calls == ["bad", "bad"]


def test_transactions_and_messages_are_parked(
    hasty: StreamConfig, connect: Connect, sql: psycopg.Connection[Any]
) -> None:
    received: list[dict[str, Any]] = []
    mood = {"bad": True}

    def receiver(signal: Any, sender: Any, **arguments: Any) -> None:
        if mood["bad"]:
            raise ValueError
        received.append(arguments)

    connect(post_db_transaction, receiver)
    connect(post_db_message, receiver)
    with Listening(replace(hasty, messages=("*",))) as listening:
        Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
        listening.wait_for(2)
        sql.execute("SELECT pg_logical_emit_message(true, 'zoo', '\\x00ff'::bytea)")
        eventually(lambda: ParkedEvent.objects.count() == 2, "parking")
    mood["bad"] = False

    assert run("walex_replay") == "2 delivered, 0 failed again\n"
    transaction, message = received
    assert [event.id for event in transaction["events"]] == [
        event.id for event in listening.events
    ]
    assert (transaction["last"], transaction["stream"]) == (True, "default")
    assert message["message"].content == b"\x00\xff"
    assert message["message"].prefix == "zoo"


def test_parked_events_are_never_delivered(
    hasty: StreamConfig, connect: Connect, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE walex_django_parkedevent")
    connect(post_db_insert, Moody())
    try:
        with Listening(replace(hasty, subscriptions=("*",))) as listening:
            Keeper.objects.create(name="bad")
            Keeper.objects.create(name="good")
            listening.wait_for(2)
    finally:
        sql.execute("ALTER PUBLICATION zoo_events DROP TABLE walex_django_parkedevent")
    assert ParkedEvent.objects.count() == 1


class TestReplay:
    """``walex_replay``."""

    @pytest.fixture
    def moody(self, hasty: StreamConfig, connect: Connect) -> Moody:
        """A receiver with three parked events, two of them of a keeper."""
        moody = Moody(bad="bad")
        connect(post_db_insert, moody)
        with Listening(replace(hasty, max_retries=0)) as listening:
            Keeper.objects.bulk_create([Keeper(name="bad"), Keeper(name="bad")])
            Animal.objects.create(name="bad")
            listening.wait_for(3)
        moody.calls.clear()
        assert ParkedEvent.objects.count() == 3
        return moody

    def test_events_are_delivered_in_order_and_removed(self, moody: Moody) -> None:
        ids: list[str] = []

        def receiver(event: Event, **kwargs: Any) -> None:
            ids.append(event.id)

        parked = list(ParkedEvent.objects.values_list("event_id", flat=True))
        name = "receiver"
        ParkedEvent.objects.update(
            receiver=f"{receiver.__module__}.{receiver.__qualname__}"
        )
        post_db_insert.connect(receiver)
        try:
            assert run("walex_replay", f"--receiver={receiver.__qualname__}").endswith(
                "3 delivered, 0 failed again\n"
            ), name
        finally:
            post_db_insert.disconnect(receiver)
        assert ids == parked
        assert not ParkedEvent.objects.exists()

    def test_event_that_fails_again_stays_parked(self, moody: Moody) -> None:
        with pytest.raises(CommandError, match="stay parked"):
            run("walex_replay", "--table", "public.zoo_keeper")

        assert moody.calls == ["bad", "bad"]
        attempts = ParkedEvent.objects.values_list("attempts", flat=True)
        assert list(attempts) == [2, 2, 1]

    def test_options_select_events(self, moody: Moody) -> None:
        moody.times = 0
        first = ParkedEvent.objects.earliest("pk")
        yesterday = timezone.now() - timedelta(days=1)
        ParkedEvent.objects.filter(pk=first.pk).update(parked_at=yesterday)
        count = "{} parked".format

        for options, expected in (
            ([], 3),
            (["--id", first.event_id], 1),
            (["--table", "public.zoo_animal"], 1),
            (["--receiver", "Moody"], 3),
            (["--receiver", "oody"], 0),
            (["--older-than", "2h"], 1),
            (["--newer-than", "2h"], 2),
            (["--stream", "second"], 0),
        ):
            printed = run("walex_replay", "--dry-run", *options)
            assert printed.splitlines()[-1] == count(expected), options
        assert moody.calls == []
        assert run("walex_replay", "--older-than=2h") == "1 delivered, 0 failed again\n"
        assert moody.calls == ["bad"]
        assert ParkedEvent.objects.count() == 2

    def test_missing_receiver_is_reported(self, moody: Moody) -> None:
        post_db_insert.disconnect(moody)
        output = StringIO()
        with pytest.raises(CommandError):
            call_command("walex_replay", stdout=output)
        assert f"{NAME} is not connected to post_db_insert" in output.getvalue()
        assert ParkedEvent.objects.count() == 3
        post_db_insert.connect(moody)

    def test_rows_of_a_failed_receiver_are_rolled_back(
        self, moody: Moody, settings: Any
    ) -> None:
        """With ``ATOMIC``, the receiver's rows are rolled back when it fails."""
        make_atomic(settings)

        def receiver(event: Event, **kwargs: Any) -> None:
            Keeper.objects.create(name="written by the receiver")
            if moody.times:
                raise ValueError

        ParkedEvent.objects.update(
            receiver=f"{receiver.__module__}.{receiver.__qualname__}"
        )
        post_db_insert.connect(receiver)
        try:
            with pytest.raises(CommandError):
                run("walex_replay")
            assert not Keeper.objects.filter(name__startswith="written").exists()
            moody.times = 0
            run("walex_replay")
        finally:
            post_db_insert.disconnect(receiver)
        assert Keeper.objects.filter(name__startswith="written").count() == 3

    def test_invalid_age_is_rejected(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(CommandError, match="'soon' is not a valid age"):
            call_command("walex_replay", "--older-than=soon")


def test_arguments_may_contain_characters_that_jsonb_rejects(
    hasty: StreamConfig, connect: Connect, sql: psycopg.Connection[Any]
) -> None:
    def receiver(**kwargs: Any) -> None:
        raise ValueError

    sql.execute("CREATE TABLE odd (id int PRIMARY KEY, data json)")
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE odd")
    connect(post_db_change, receiver)
    try:
        with Listening(replace(hasty, subscriptions=("public.odd",))) as listening:
            sql.execute('INSERT INTO odd VALUES (1, \'{"a": "\\u0000"}\')')
            listening.wait_for(1)
            eventually(ParkedEvent.objects.exists)
    finally:
        sql.execute("DROP TABLE odd")
    record = ParkedEvent.objects.get().arguments["event"]["new_record"]
    assert json.dumps(record) == '{"id": 1, "data": {"a": "\\u0000"}}'


def run(*arguments: str) -> str:
    """Run a command and return what it printed."""
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()
