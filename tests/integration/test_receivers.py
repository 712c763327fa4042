"""What receivers are called with, and how their events behave elsewhere."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.core.checks.model_checks import check_lazy_references
from django.db.models import Model

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Aviary, Building, Keeper, TameAnimal, Temperature
from walex_django import Event, ExactText
from walex_django.conf.stream import StreamConfig
from walex_django.models import ParkedEvent
from walex_django.signals import (
    ChangeSignal,
    StreamSignal,
    post_db_change,
    post_db_insert,
    post_db_message,
    post_db_transaction,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_instance_can_first_be_read_in_a_coroutine(
    config: StreamConfig, connect: Connect
) -> None:
    instances: list[Model | None] = []

    async def receiver(event: Event, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        instances.append(event.instance)

    connect(post_db_insert, receiver, Animal)
    with Listening(config) as listening:
        comfort: Any = Temperature(25)
        leo = Animal.objects.create(
            name="Leo", habits={"eats": ["meat"]}, comfort=comfort
        )
        listening.wait_for(1)

    assert instances == [leo]
    (instance,) = instances
    assert isinstance(instance, Animal)
    assert (instance.name, instance.habits) == ("Leo", {"eats": ["meat"]})
    assert instance.comfort == comfort


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_any_base_exception_of_a_receiver_is_parked(
    config: StreamConfig, connect: Connect, error: type[BaseException]
) -> None:
    def receiver(**kwargs: Any) -> None:
        raise error("enough")

    connect(post_db_insert, receiver)
    with Listening(replace(config, max_retries=0)) as listening:
        Keeper.objects.create(name="Ada")
        Keeper.objects.create(name="Bob")
        events = listening.wait_for(2)

    parked = ParkedEvent.objects.all()
    assert [each.event_id for each in parked] == [event.id for event in events]
    assert {each.attempts for each in parked} == {1}
    assert all(each.error.endswith(f"{error.__name__}: enough") for each in parked)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_any_base_exception_of_a_receiver_is_retried(
    config: StreamConfig, connect: Connect, error: type[BaseException]
) -> None:
    calls: list[str] = []

    def receiver(event: Event, **kwargs: Any) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise error("once")

    connect(post_db_insert, receiver)
    with Listening(replace(config, retry_backoff=0.001)) as listening:
        Keeper.objects.create(name="Ada")
        (event,) = listening.wait_for(1)

    assert calls == [event.id] * 2
    assert not ParkedEvent.objects.exists()


def test_child_table_leaves_the_fields_of_its_parent_deferred(
    listening: Listening,
) -> None:
    Aviary.objects.create(name="Dome", label="birds", height=12)

    parent, child = listening.wait_for(2)
    assert isinstance(parent.instance, Building)
    assert parent.instance.name == "Dome"
    instance = child.instance
    assert isinstance(instance, Aviary)
    assert instance.label == "birds"
    assert instance.get_deferred_fields() == {"id", "name"}
    assert instance.name == "Dome"


def _as_json(event: Event) -> Event:
    return Event.from_dict(json.loads(event.as_json()))


@pytest.mark.parametrize(
    "habits", ["[" * 3000 + "]" * 3000, "1" * 5001], ids=["deep", "many digits"]
)
def test_json_that_python_cannot_parse_arrives_as_text(
    listening: Listening, sql: psycopg.Connection[Any], habits: str
) -> None:
    sql.execute(
        "INSERT INTO zoo_animal (name, habits, tame, tags, story)"
        " VALUES ('Leo', %s, true, '{}', '')",
        [habits],
    )

    (event,) = listening.wait_for(1)
    instance, record = event.instance, event.new_record
    assert isinstance(instance, Animal)
    assert record is not None
    assert instance.name == "Leo"
    try:
        expected = json.loads(habits)
    except (ValueError, RecursionError):
        expected = habits
        assert type(instance.habits) is ExactText
        assert type(record["habits"]) is ExactText
    assert instance.habits == expected
    assert record["habits"] == expected
    restored = _as_json(event)
    assert restored.new_record == record
    assert type((restored.new_record or {})["habits"]) is type(record["habits"])


def test_transaction_that_ends_with_a_message_has_a_last_part(
    config: StreamConfig, sql: psycopg.Connection[Any], connect: Connect
) -> None:
    received: list[Any] = []

    def on_message(message: Any, **kwargs: Any) -> None:
        received.append(message.content)

    def on_transaction(events: list[Event], last: bool, **kwargs: Any) -> None:
        received.append((len(events), last))

    connect(post_db_message, on_message)
    connect(post_db_transaction, on_transaction)
    with Listening(replace(config, messages=("*",))) as listening:
        with sql.transaction():
            sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
            sql.execute("SELECT pg_logical_emit_message(true, 'zoo', 'the end')")
        Keeper.objects.create(name="Bob")
        listening.wait_for(2)
        listening.wait_until(lambda: len(received) == 4)

    assert received == [(1, False), b"the end", (0, True), (1, True)]


def test_last_part_without_events_can_be_parked(
    config: StreamConfig, sql: psycopg.Connection[Any], connect: Connect
) -> None:
    def receiver(last: bool, **kwargs: Any) -> None:
        if last:
            raise ValueError("enough")

    connect(post_db_transaction, receiver)
    hasty = replace(config, messages=("*",), max_retries=0)
    with Listening(hasty):
        with sql.transaction():
            sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
            sql.execute("SELECT pg_logical_emit_message(true, 'zoo', 'the end')")
        eventually(ParkedEvent.objects.exists, "parking")

    parked = ParkedEvent.objects.get()
    assert parked.arguments == {"events": [], "last": True}


class TestEventAsValue:
    """Events are copied, pickled, compared and restored."""

    @pytest.fixture
    def event(self, listening: Listening) -> Event:
        Keeper.objects.create(name="Ada")
        (event,) = listening.wait_for(1)
        return event

    @pytest.mark.parametrize(
        "travel",
        [lambda event: pickle.loads(pickle.dumps(event)), copy.deepcopy, _as_json],  # noqa: S301
        ids=["pickle", "deepcopy", "json"],
    )
    def test_a_copy_is_equal(
        self, event: Event, travel: Callable[[Event], Event]
    ) -> None:
        copied = travel(event)

        assert copied == event
        assert hash(copied) == hash(event)
        assert copied.as_dict() == event.as_dict()
        assert isinstance(copied.instance, Keeper)
        assert copied.instance.name == "Ada"

    def test_a_redelivered_event_is_equal(self, durable: StreamConfig) -> None:
        Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
        received: list[Event] = []

        def receiver(event: Event, **kwargs: Any) -> None:
            received.append(event)
            raise ValueError("not yet")

        strict = replace(durable, on_error="stop", max_retries=0)
        post_db_insert.connect(receiver)
        try:
            for _ in range(2):
                with Listening(strict) as listening:
                    listening.wait_for_end()
        finally:
            post_db_insert.disconnect(receiver)

        first, again = received
        assert first is not again
        assert first == again
        assert len({first, again}) == 1

    def test_other_events_are_not_equal(self, listening: Listening) -> None:
        Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
        Keeper.objects.create(name="Ada")

        events = listening.wait_for(3)
        assert len(set(events)) == 3
        assert events[0] != events[0].as_dict()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"model": "zoo.Unicorn"},
            {"model": "unicorns.Keeper"},
            {"model": 5},
            {"type": "upsert"},
            {"lsn": "somewhere"},
            {"timestamp": "yesterday"},
            {"source": None},
            {"new_record": {"id": {"no": "number"}, "name": "Ada"}},
            {"new_record": None},
            {"new_record": [1]},
            {"ordinal": "x"},
            {"xid": "y"},
            {"timestamp": "2026-11-22T10:00:00"},
            {"model": "keeper"},
        ],
        ids=str,
    )
    def test_invalid_data_is_refused(self, event: Event, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            Event.from_dict({**event.as_dict(), **wrong})

    def test_an_unknown_database_is_refused(self, event: Event) -> None:
        data = event.as_dict()
        data["source"]["db"] = "nowhere"

        with pytest.raises(ValueError, match="not a dict returned by Event"):
            Event.from_dict(data)

    def test_version_of_the_source_is_preserved(self, event: Event) -> None:
        data = event.as_dict()
        data["source"]["version"] = "0.0.1"

        restored = Event.from_dict(data)
        assert restored.source.version == "0.0.1"
        assert restored == event
        assert restored.as_dict() == data
        assert _as_json(event).source.version == event.source.version

    def test_columns_are_read_only(self, event: Event) -> None:
        columns: Any = event.source.columns

        with pytest.raises(TypeError):
            columns["id"] = "text"
        with pytest.raises(AttributeError):
            columns.clear()
        event.as_dict()["source"]["columns"].clear()
        assert set(event.source.columns) == {"id", "name"}


class TestConnect:
    """What ``connect`` refuses, and which receivers are called."""

    def test_coroutine_connected_to_model_and_proxy_is_called_once(
        self, listening: Listening
    ) -> None:
        received: list[Event] = []

        async def receiver(event: Event, **kwargs: Any) -> None:
            received.append(event)

        for sender in (Animal, TameAnimal):
            post_db_insert.connect(receiver, sender=sender)
        try:
            Animal.objects.create(name="Leo")
            listening.wait_for(1)
        finally:
            for sender in (Animal, TameAnimal):
                post_db_insert.disconnect(receiver, sender=sender)
        assert received == listening.events

    def test_unreferenced_function_is_disconnected(self) -> None:
        def receiver(**kwargs: Any) -> None:
            """Never called."""

        post_db_insert.connect(receiver)
        assert post_db_insert.count() == 1
        del receiver
        gc.collect()
        assert post_db_insert.count() == 0

    @pytest.mark.parametrize("signal", [post_db_insert, post_db_transaction])
    def test_receiver_must_accept_kwargs(self, signal: StreamSignal) -> None:
        def narrow(sender: Any, event: Event) -> None:
            pass

        with pytest.raises(ValueError, match=r"narrow must accept \*\*kwargs"):
            signal.connect(narrow)
        assert signal.count() == 0

    @pytest.mark.parametrize("signal", [post_db_transaction, post_db_message])
    def test_stream_signals_have_no_senders(self, signal: StreamSignal) -> None:
        def receiver(**kwargs: Any) -> None:
            pass

        with pytest.raises(ValueError, match=f"{signal.name} has no senders"):
            signal.connect(receiver, sender=Keeper)
        assert signal.count() == 0

    def test_signals_e001_names_the_receiver_of_an_unknown_model(self) -> None:
        def forlorn(**kwargs: Any) -> None:
            pass

        post_db_insert.connect(forlorn, sender="zoo.Unicorn", weak=False)
        try:
            errors = check_lazy_references(None)
        finally:
            del apps._pending_operations["zoo", "unicorn"]

        (error,) = errors
        assert error.id == "signals.E001"
        assert "forlorn" in error.msg
        assert "'zoo.unicorn'" in error.msg

    def test_invalid_model_label_is_refused(self) -> None:
        def receiver(**kwargs: Any) -> None:
            pass

        with pytest.raises(ValueError, match="Keeper"):
            post_db_insert.connect(receiver, sender="Keeper")

    def test_only_live_receivers_are_counted(self) -> None:
        class Owner:
            def receive(self, **kwargs: Any) -> None:
                pass

        signal = ChangeSignal("of this test")
        passing, lasting = Owner(), Owner()
        signal.connect(passing.receive)
        signal.connect(lasting.receive, sender=Keeper)
        assert signal.count() == 2

        del passing
        gc.collect()
        assert signal.count() == 1

    def test_receiver_connected_to_model_and_proxy_is_called_once(
        self, listening: Listening, connect: Connect
    ) -> None:
        calls: list[str] = []

        def receiver(event: Event, **kwargs: Any) -> None:
            calls.append(event.id)

        for sender in (Animal, TameAnimal):
            connect(post_db_change, receiver, sender)
        leo = TameAnimal.objects.create(name="Leo")
        leo.save()
        events = listening.wait_for(2)
        listening.stop()

        assert calls == [event.id for event in events]
