"""Settings that change in the listener's process."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from pytest_django import Settings

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Building, Keeper
from walex_django import Event
from walex_django.conf import stored
from walex_django.conf.configs import (
    add_config,
    get_config,
    remove_config,
    replace_config,
)
from walex_django.conf.stream import StreamConfig
from walex_django.handlers import registry
from walex_django.models import ParkedEvent, StreamSetting
from walex_django.signals import post_db_insert, post_db_message, post_db_transaction

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def walex(settings: Settings) -> None:
    """Restore ``settings.WALEX`` after the test."""
    settings.WALEX = copy.deepcopy(settings.WALEX)


@pytest.fixture
def keepers(config: StreamConfig) -> StreamConfig:
    """A stream that delivers only keepers."""
    return replace(config, subscriptions=("zoo.Keeper",))


def emit(prefix: str, *, transactional: bool = True) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_logical_emit_message(%s, %s, 'said')", [transactional, prefix]
        )


def labels(events: list[Event]) -> list[str]:
    return [event.instance.name for event in events]  # type: ignore[union-attr]


def test_subscriptions_change_at_the_next_transaction(keepers: StreamConfig) -> None:
    replace_config("default", "SUBSCRIPTIONS", ["zoo.Keeper"])
    with Listening(keepers) as listening:
        Animal.objects.create(name="nobody's")
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        add_config("default", "SUBSCRIPTIONS", ["zoo.Animal"])
        Animal.objects.create(name="Leo")
        listening.wait_for(2)
        remove_config("default", "SUBSCRIPTIONS", "zoo.Keeper")
        Keeper.objects.create(name="nobody's")
        Animal.objects.create(name="Rex")
        assert labels(listening.wait_for(3)) == ["Ada", "Leo", "Rex"]
        replace_config("default", "SUBSCRIPTIONS", ["*"])
        Keeper.objects.create(name="Bob")
        assert labels(listening.wait_for(4))[3] == "Bob"


def test_transaction_is_delivered_with_the_settings_at_its_start(
    keepers: StreamConfig, connect: Connect
) -> None:
    """Its settings change while the first of its events are delivered."""
    sizes: list[int] = []

    def change(sender: Any, event: Event, **kwargs: Any) -> None:
        assert isinstance(event.instance, Keeper)
        if event.instance.name == "0":
            replace_config("default", "SUBSCRIPTIONS", ["zoo.Animal"])
            replace_config("default", "MAX_BATCH", 3)

    def measure(events: list[Event], **kwargs: Any) -> None:
        sizes.append(len(events))

    connect(post_db_insert, change, Keeper)
    connect(post_db_transaction, measure)
    with Listening(replace(keepers, max_batch=2)) as listening:
        with transaction.atomic():
            for number in range(4):
                Keeper.objects.create(name=str(number))
                Animal.objects.create(name=f"unwanted {number}")
        listening.wait_for(4)
        with transaction.atomic():
            for number in range(4):
                Keeper.objects.create(name=f"unwanted {number}")
                Animal.objects.create(name=str(number))
        events = listening.wait_for(8)
        listening.wait_until(lambda: len(sizes) == 4)

    assert labels(events) == ["0", "1", "2", "3"] * 2
    assert [event.model for event in events] == [Keeper] * 4 + [Animal] * 4
    assert sizes == [2, 2, 3, 1]


def test_threads_change_settings_while_the_stream_runs(
    config: StreamConfig, connect: Connect
) -> None:
    received: list[str] = []
    prefixes = [f"part{number}" for number in range(20)]

    def receive(message: Any, **kwargs: Any) -> None:
        received.append(message.prefix)

    connect(post_db_message, receive)
    with Listening(config) as listening:
        threads = [
            Thread(target=add_config, args=("default", "MESSAGES", prefix))
            for prefix in prefixes
        ]
        for thread in threads:
            thread.start()
            Keeper.objects.create(name="meanwhile")
        for thread in threads:
            thread.join()
        for prefix in prefixes:
            emit(prefix)
        emit("unwanted")
        listening.wait_for(20)
        eventually(lambda: len(received) == 20, "the messages")

    assert received == prefixes


def test_messages_change_outside_of_transactions(
    config: StreamConfig, connect: Connect
) -> None:
    received: list[tuple[str, bool]] = []

    def receive(message: Any, **kwargs: Any) -> None:
        received.append((message.prefix, message.transactional))

    connect(post_db_message, receive)
    with Listening(replace(config, messages=("early",))):
        emit("early", transactional=False)
        eventually(lambda: len(received) == 1, "the first message")
        replace_config("default", "MESSAGES", ["late"])
        emit("early", transactional=False)
        emit("late", transactional=False)
        emit("late")
        eventually(lambda: len(received) == 3, "the other messages")

    assert received == [("early", False), ("late", False), ("late", True)]


def test_internal_messages_are_not_delivered(
    config: StreamConfig, connect: Connect
) -> None:
    received: list[str] = []

    def receive(message: Any, **kwargs: Any) -> None:
        received.append(message.prefix)

    connect(post_db_message, receive)
    with Listening(replace(config, messages=("*",))):
        stored.announce(config)
        emit("walex_django.context")
        emit("walex_django.else", transactional=False)
        emit("walex_djangoish")
        eventually(lambda: bool(received), "the message")

    assert received == ["walex_djangoish"]


def test_filters_change_at_the_next_transaction(config: StreamConfig) -> None:
    with Listening(config) as listening:
        Keeper.objects.create(name="out")
        listening.wait_for(1)
        unwatched = {"unwatched_records": {"name": "out"}}
        add_config("default", "FILTERS", {"zoo.Keeper": unwatched})
        Keeper.objects.create(name="out")
        Keeper.objects.create(name="in")
        assert labels(listening.wait_for(2)) == ["out", "in"]
        remove_config("default", "FILTERS", "zoo.Keeper")
        Keeper.objects.create(name="out")
        assert labels(listening.wait_for(3))[2] == "out"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with a handler that stores the names of keepers."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_handlers.py").write_text(
        "from walex_django import on_insert\n"
        "received = []\n"
        "@on_insert('zoo.Keeper')\n"
        "def receive(events):\n"
        "    received.extend(event.instance.name for event in events)\n"
    )
    yield "late_handlers"
    if loaded := sys.modules.pop("late_handlers", None):
        registry.unregister(loaded.receive)


def test_a_module_with_handlers_is_imported(config: StreamConfig, module: str) -> None:
    with Listening(config) as listening:
        Keeper.objects.create(name="too early")
        listening.wait_for(1)
        assert module not in sys.modules
        add_config("default", "MODULES", module)
        Keeper.objects.create(name="Ada")
        eventually(
            lambda: sys.modules[module].received == ["Ada"], "the handler's call"
        )


def test_error_handling_changes_at_the_next_transaction(
    config: StreamConfig, connect: Connect
) -> None:
    calls: list[str] = []

    def fail(sender: Any, event: Event, **kwargs: Any) -> None:
        assert isinstance(event.instance, Keeper)
        calls.append(event.instance.name)
        raise ValueError(event.instance.name)

    connect(post_db_insert, fail, Keeper)
    with Listening(
        replace(config, max_retries=0, retry_backoff=30, on_error="skip")
    ) as listening:
        Keeper.objects.create(name="skipped")
        listening.wait_for(1)
        replace_config("default", "ON_ERROR", "park")
        replace_config("default", "MAX_RETRIES", 2)
        replace_config("default", "RETRY_BACKOFF", 0.001)
        Keeper.objects.create(name="parked")
        listening.wait_for(2)

    assert calls == ["skipped"] + ["parked"] * 3
    assert ParkedEvent.objects.get().error == "ValueError: parked"


def test_unpublished_table_is_logged_and_delivered_once_published(
    keepers: StreamConfig,
    sql: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_building")
    replace_config("default", "SUBSCRIPTIONS", ["zoo.Keeper"])
    with Listening(keepers) as listening:
        Building.objects.create(name="unpublished")
        add_config("default", "SUBSCRIPTIONS", "zoo.Building")
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
        assert warning.getMessage() == (
            "Stream default: SUBSCRIPTIONS names tables that are missing from the"
            ' publication "zoo_events": public.zoo_building.'
            " Run: python manage.py walex_setup"
        )
        sql.execute("ALTER PUBLICATION zoo_events ADD TABLE zoo_building")
        Building.objects.create(name="aviary")
        assert labels(listening.wait_for(2)) == ["Ada", "aviary"]


def test_changes_are_stored_for_the_next_listener(keepers: StreamConfig) -> None:
    replace_config("default", "SUBSCRIPTIONS", ["zoo.Keeper"])
    with Listening(keepers) as listening:
        stored.change(keepers, "add", "SUBSCRIPTIONS", "zoo.Animal")
        Animal.objects.create(name="Leo")
        listening.wait_for(1)
    with Listening(keepers) as listening:
        Animal.objects.create(name="Rex")
        assert labels(listening.wait_for(1)) == ["Rex"]


def test_setting_that_json_cannot_store_is_refused(
    config: StreamConfig, settings: Settings
) -> None:
    settings.WALEX = {"default": {"FILTERS": {"zoo.Keeper": {"where": bool}}}}
    with pytest.raises(ImproperlyConfigured, match="functions as dotted paths"):
        stored.change(config, "add", "FILTERS", {"zoo.Animal": {"changed": ["weight"]}})

    assert not StreamSetting.objects.exists()
    assert list(get_config("default").filters) == ["zoo.Keeper"]


def test_invalid_stored_setting_ends_the_listener(
    config: StreamConfig,
) -> None:
    with Listening(config) as listening:
        StreamSetting.objects.create(
            stream="default", key="MODULES", value=["gone.handlers"]
        )
        stored.announce(config)
        error = listening.wait_for_end()

    assert isinstance(error, ImproperlyConfigured)
    assert "No module named 'gone.handlers'" in str(error)
    assert str(error).endswith("manage.py walex_config default reset MODULES")
