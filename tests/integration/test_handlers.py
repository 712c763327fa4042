"""Handlers: the events that they get, in which lists and of which streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import psycopg
import pytest
from django.db import transaction

from tests.listening import Connect, Listening
from tests.zoo.models import Animal, Building, Keeper, TameAnimal
from walex_django import (
    ALL_TABLES,
    Event,
    EventType,
    on_delete,
    on_event,
    on_insert,
    on_truncate,
    on_update,
)
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.handlers import registry
from walex_django.provisioning.plan import setup_plan
from walex_django.replication import connection as replication
from walex_django.signals import post_db_change, post_db_insert, post_db_transaction

from .handling import Recorder, label

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

Sql = psycopg.Connection[Any]


class TestTables:
    """Tables that a handler can name."""

    @pytest.mark.parametrize(
        "tables",
        [
            Keeper,
            "zoo.Keeper",
            "zoo.keeper",
            "public.zoo_keeper",
            [Keeper],
            (Keeper, "public.zoo_keeper"),
            # The text of a set differs between processes.
            pytest.param({"zoo.Keeper", "zoo.Mascot"}, id="set"),
        ],
        ids=str,
    )
    def test_handler_of_one_table(self, config: StreamConfig, tables: Any) -> None:
        heard = Recorder()
        on_event(tables)(heard)
        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            Building.objects.create(name="Dome")
            listening.wait_for(2)
        assert heard.labels == [["insert Ada"]]

    @pytest.mark.parametrize("tables", [ALL_TABLES, "zoo.*", "public.*", ["zoo.*"]])
    def test_handler_of_all_tables(self, config: StreamConfig, tables: Any) -> None:
        heard = Recorder()
        on_event(tables)(heard)
        with Listening(config) as listening:
            Keeper.objects.create(name="Ada")
            Building.objects.create(name="Dome")
            listening.wait_for(2)
        assert heard.labels == [["insert Ada"], ["insert Dome"]]

    def test_proxy_means_its_concrete_model(self, config: StreamConfig) -> None:
        heard = Recorder()
        on_insert(TameAnimal)(heard)
        with Listening(config) as listening:
            Animal.objects.create(name="Leo")
            listening.wait_for(1)
        assert heard.labels == [["insert Leo"]]

    def test_table_without_model(self, config: StreamConfig, sql: Sql) -> None:
        heard = Recorder()
        on_event("bare.stone")(heard)
        sql.execute("CREATE SCHEMA bare CREATE TABLE stone (name text PRIMARY KEY)")
        sql.execute("ALTER PUBLICATION zoo_events ADD TABLE bare.stone")
        try:
            with Listening(replace(config, subscriptions=("*",))) as listening:
                sql.execute("INSERT INTO bare.stone VALUES ('flint')")
                listening.wait_for(1)
        finally:
            sql.execute("DROP SCHEMA bare CASCADE")
        assert heard.labels == [["insert flint"]]

    def test_subscriptions_of_stream_limit_handlers(self, config: StreamConfig) -> None:
        heard = Recorder()
        on_event(ALL_TABLES)(heard)
        with Listening(replace(config, subscriptions=("zoo.Keeper",))) as listening:
            Building.objects.create(name="Dome")
            Keeper.objects.create(name="Ada")
            listening.wait_for(1)
        assert heard.labels == [["insert Ada"]]


class TestLists:
    """The lists that a handler is called with."""

    def test_each_decorator_gets_its_events(
        self, config: StreamConfig, sql: Sql
    ) -> None:
        all_of = {
            decorator: Recorder(decorator.__name__)
            for decorator in (on_insert, on_update, on_delete, on_truncate, on_event)
        }
        for decorator, heard in all_of.items():
            decorator(Keeper)(heard)
        with Listening(config) as listening:
            ada = Keeper.objects.create(name="Ada")
            Keeper.objects.filter(pk=ada.pk).update(name="Bob")
            ada.delete()
            sql.execute("TRUNCATE zoo_keeper CASCADE")
            listening.wait_until(
                lambda: (
                    bool(listening.events)
                    and listening.events[-1].type is EventType.TRUNCATE
                )
            )
        assert all_of[on_insert].labels == [["insert Ada"]]
        assert all_of[on_update].labels == [["update Bob"]]
        assert all_of[on_delete].labels == [["delete"]]
        assert all_of[on_truncate].labels == [["truncate"]]
        assert all_of[on_event].labels == [
            *(["insert Ada"], ["update Bob"], ["delete"], ["truncate"]),
        ]

    def test_function_can_have_several_decorators(self, config: StreamConfig) -> None:
        heard = Recorder()
        assert on_insert(Keeper)(on_delete(Keeper)(on_update(Animal)(heard))) is heard
        with Listening(config) as listening:
            ada = Keeper.objects.create(name="Ada")
            Keeper.objects.filter(pk=ada.pk).update(name="Bob")
            ada.delete()
            leo = Animal.objects.create(name="Leo")
            Animal.objects.filter(pk=leo.pk).update(name="Max")
            listening.wait_for(5)
        assert heard.labels == [["insert Ada"], ["delete"], ["update Max"]]

    def test_transaction_is_one_ordered_list_across_tables(
        self, config: StreamConfig
    ) -> None:
        heard, keepers = Recorder(), Recorder("keepers")
        on_event([Keeper, Animal])(heard)
        on_event(Keeper)(keepers)
        with Listening(config) as listening:
            with transaction.atomic():
                ada = Keeper.objects.create(name="Ada")
                Animal.objects.create(name="Leo")
                Building.objects.create(name="Dome")
                Keeper.objects.filter(pk=ada.pk).update(name="Bob")
                Animal.objects.create(name="Max")
            Keeper.objects.create(name="Cem")
            listening.wait_for(6)
        assert heard.labels == [
            ["insert Ada", "insert Leo", "update Bob", "insert Max"],
            ["insert Cem"],
        ]
        assert keepers.labels == [["insert Ada", "update Bob"], ["insert Cem"]]

    def test_long_transaction_is_delivered_in_chunks(
        self, config: StreamConfig
    ) -> None:
        heard = Recorder()
        on_insert(Keeper)(heard)
        with Listening(replace(config, max_batch=3)) as listening:
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(8))
            listening.wait_for(8)
        assert [len(events) for events in heard.lists] == [3, 3, 2]
        assert list(chain(*heard.lists)) == listening.events

    def test_handlers_run_in_order_between_receivers_and_transaction_signal(
        self, config: StreamConfig, connect: Connect
    ) -> None:
        calls: list[str] = []

        def receiver(event: Event, **kwargs: Any) -> None:
            calls.append(label(event))

        def at_the_end(events: list[Event], **kwargs: Any) -> None:
            calls.append(f"transaction of {len(events)}")

        def recorder(name: str) -> Callable[[list[Event]], None]:
            def note(events: list[Event]) -> None:
                calls.append(f"{name} {len(events)}")

            note.__qualname__ = name
            return note

        connect(post_db_insert, receiver)
        connect(post_db_transaction, at_the_end)
        on_event(Animal)(recorder("last table first"))
        on_insert(Keeper)(recorder("second"))
        on_event(ALL_TABLES)(recorder("third"))
        with Listening(config) as listening:
            with transaction.atomic():
                Keeper.objects.create(name="Ada")
                Animal.objects.create(name="Leo")
            listening.wait_for(2)
        assert calls == [
            *("insert Ada", "insert Leo"),
            *("last table first 1", "second 1", "third 2", "transaction of 2"),
        ]

    def test_handler_can_be_async(self, config: StreamConfig) -> None:
        names: list[str] = []

        async def keepers(events: list[Event]) -> None:
            await asyncio.sleep(0)
            assert isinstance(events[0].instance, Keeper)
            names.extend([event.instance.name async for event in _each(events)])
            names.append(str(await Keeper.objects.acount()))

        class Async:
            async def __call__(self, events: list[Event]) -> None:
                await asyncio.sleep(0)
                names.append("object")

        on_insert(Keeper)(keepers)
        on_insert(Keeper)(Async())
        with Listening(config) as listening:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            listening.wait_for(2)
        assert names == ["Ada", "Bob", "2", "object"]

    def test_handlers_can_be_added_and_removed_while_stream_runs(
        self, listening: Listening
    ) -> None:
        first, second = Recorder("first"), Recorder("second")
        on_insert(Keeper)(first)
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        listening.wait_until(lambda: bool(first.lists))
        registry.unregister(first)
        on_insert(Keeper)(second)
        Keeper.objects.create(name="Bob")
        listening.wait_for(2)
        listening.stop()
        assert first.labels == [["insert Ada"]]
        assert second.labels == [["insert Bob"]]


async def _each(events: list[Event]) -> Any:
    for event in events:
        yield event


class TestStreams:
    """Handlers and receivers that name a stream."""

    @pytest.fixture
    def second(self, config: StreamConfig) -> StreamConfig:
        """Another stream of the same database."""
        return replace(config, name="second", slot_name="second_temporary")

    def test_streams_of_one_database(
        self, config: StreamConfig, second: StreamConfig
    ) -> None:
        heard = [Recorder("default"), Recorder("second"), Recorder("both")]
        for each, stream in zip(heard, ["default", "second", None], strict=True):
            on_insert(Keeper, stream=stream)(each)
        received: list[tuple[str, str]] = []

        def of_second(stream: str, event: Event, **kwargs: Any) -> None:
            received.append((stream, label(event)))

        def never_called(**kwargs: Any) -> None:
            raise AssertionError

        post_db_insert.connect(of_second, sender=Keeper, stream="second")
        post_db_insert.connect(never_called, stream="third")
        post_db_change.connect(never_called, sender=Animal, stream="second")
        post_db_transaction.connect(never_called, stream="third")
        try:
            with Listening(config) as first, Listening(second) as other:
                Keeper.objects.create(name="Ada")
                # Both count the events that either one delivers.
                first.wait_for(2)
                other.wait_for(2)
        finally:
            assert post_db_insert.disconnect(of_second, Keeper, stream="second")
            assert post_db_insert.disconnect(never_called, stream="third")
            assert post_db_change.disconnect(never_called, Animal, stream="second")
            assert post_db_transaction.disconnect(never_called, stream="third")
        assert [each.labels for each in heard] == [
            *([["insert Ada"]], [["insert Ada"]], [["insert Ada"]] * 2),
        ]
        assert received == [("second", "insert Ada")]

    def test_receivers_of_all_kinds_can_name_a_stream(
        self, config: StreamConfig
    ) -> None:
        received: list[str] = []

        async def coroutine(event: Event, **kwargs: Any) -> None:
            await asyncio.sleep(0)
            received.append(f"coroutine {label(event)}")

        def proxy(event: Event, **kwargs: Any) -> None:
            received.append(f"proxy {label(event)}")

        def once(event: Event, **kwargs: Any) -> None:
            received.append(f"once {label(event)}")

        def again(**kwargs: Any) -> None:
            raise AssertionError

        stream = config.name
        post_db_insert.connect(coroutine, sender="zoo.Animal", stream=stream)
        post_db_insert.connect(proxy, sender=TameAnimal, stream=stream)
        post_db_change.connect(once, dispatch_uid="once", stream=stream)
        post_db_change.connect(again, dispatch_uid="once", stream=stream)
        try:
            with Listening(config) as listening:
                Animal.objects.create(name="Leo")
                Keeper.objects.create(name="Ada")
                listening.wait_for(2)
        finally:
            assert post_db_insert.disconnect(coroutine, "zoo.Animal", stream=stream)
            assert post_db_insert.disconnect(proxy, TameAnimal, stream=stream)
            assert post_db_change.disconnect(dispatch_uid="once", stream=stream)
        assert sorted(received) == [
            *("coroutine insert Leo", "once insert Ada"),
            *("once insert Leo", "proxy insert Leo"),
        ]

    @pytest.mark.django_db(transaction=True, databases=["default", "second"])
    def test_streams_of_two_databases(self, config: StreamConfig) -> None:
        second = replace(get_config("second"), durable_slot=False)
        with replication.connect(second.connection_parameters()) as sql:
            for step in setup_plan(second, sql):
                sql.execute(step.statement)
        heard, of_second = Recorder("heard"), Recorder("of_second")
        on_insert(Keeper)(heard)
        on_insert(Keeper, stream="second")(of_second)
        with Listening(config) as first, Listening(second) as other:
            Keeper.objects.using("second").create(name="Bob")
            first.wait_for(1)
            Keeper.objects.using("default").create(name="Ada")
            other.wait_for(2)
        assert heard.labels == [["insert Bob"], ["insert Ada"]]
        assert of_second.labels == [["insert Bob"]]
        instance = of_second.lists[0][0].instance
        assert instance is not None
        assert instance._state.db == "second"
