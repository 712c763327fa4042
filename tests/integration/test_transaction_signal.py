"""post_db_transaction with filters, handlers, messages and parts of transactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, transaction

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper
from walex_django import Event, on_event, on_insert
from walex_django.conf.stream import StreamConfig
from walex_django.filters import Filter
from walex_django.signals import post_db_change, post_db_message, post_db_transaction

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

OUT = Filter(unwatched_records={"name": "out"})


def names(events: list[Event]) -> list[str]:
    return [event.new_record["name"] for event in events if event.new_record]


@pytest.fixture
def calls(connect: Connect) -> list[tuple[str, Any]]:
    """The calls in order; each part of a transaction is marked "part" or "last"."""
    calls: list[tuple[str, Any]] = []

    def receive(events: list[Event], last: bool, **kwargs: Any) -> None:
        calls.append(("last" if last else "part", names(events)))

    connect(post_db_transaction, receive)
    return calls


@pytest.fixture
def wait(calls: list[tuple[str, Any]]) -> Callable[[int], None]:
    """Return a function that waits for a number of complete transactions."""

    def wait(count: int) -> None:
        eventually(
            lambda: sum(kind == "last" for kind, _ in calls) == count, "the last one"
        )

    return wait


def write(*names: str) -> None:
    Keeper.objects.bulk_create(Keeper(name=name) for name in names)


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (2, [("last", 2)]),
        (3, [("last", 3)]),
        (4, [("part", 3), ("last", 1)]),
        (6, [("part", 3), ("last", 3)]),
        (7, [("part", 3), ("part", 3), ("last", 1)]),
    ],
)
def test_last_part_is_marked(
    config: StreamConfig,
    calls: list[tuple[str, Any]],
    wait: Callable[[int], None],
    count: int,
    parts: list[tuple[str, int]],
) -> None:
    with Listening(replace(config, max_batch=3)):
        write(*map(str, range(count)))
        wait(1)

    assert [(kind, len(part)) for kind, part in calls] == parts
    assert [name for _, part in calls for name in part] == list(map(str, range(count)))


def test_filtered_events_are_in_no_part(
    config: StreamConfig, calls: list[tuple[str, Any]], wait: Callable[[int], None]
) -> None:
    """Parts contain only delivered events; without any, no signal is sent."""
    config = replace(config, filters={"zoo.Keeper": OUT}, max_batch=2)
    with Listening(config) as listening:
        write("out", "1", "out", "2", "out", "3", "out")
        write("out")
        write("out", "out", "4")
        wait(2)
        ordinals = [event.ordinal for event in listening.events]

    assert calls == [("part", ["1", "2"]), ("last", ["3"]), ("last", ["4"])]
    # Ordinals include the filtered changes.
    assert ordinals == [2, 4, 6, 3]


def test_condition_of_the_stream_applies(
    config: StreamConfig, calls: list[tuple[str, Any]], wait: Callable[[int], None]
) -> None:
    def is_long(event: Event) -> bool:
        return len(names([event])[0]) > 3

    config = replace(config, filters={"zoo.*": Filter(where=is_long)})
    with Listening(config):
        with transaction.atomic():
            write("Ada", "Grace")
            Animal.objects.create(name="Leo")
            Animal.objects.create(name="Ludwig")
        write("Eve", "Judith")
        wait(2)

    assert calls == [("last", ["Grace", "Ludwig"]), ("last", ["Judith"])]


def test_filters_of_a_handler_apply_only_to_it(
    config: StreamConfig, calls: list[tuple[str, Any]], wait: Callable[[int], None]
) -> None:
    @on_insert(Keeper, unwatched_records={"name": "out"})
    def keepers(events: list[Event]) -> None:
        calls.append(("keepers", names(events)))

    with Listening(config):
        write("out", "in")
        write("out")
        wait(2)

    assert calls == [
        ("keepers", ["in"]),
        ("last", ["out", "in"]),
        ("last", ["out"]),
    ]


def test_signal_follows_signals_and_handlers_of_the_same_part(
    config: StreamConfig,
    calls: list[tuple[str, Any]],
    wait: Callable[[int], None],
    connect: Connect,
) -> None:
    def receive(event: Event, **kwargs: Any) -> None:
        calls.append(("change", names([event])))

    @on_event("zoo.*")
    def handle(events: list[Event]) -> None:
        calls.append(("handler", names(events)))

    @on_insert(Animal)
    def animals(events: list[Event]) -> None:
        calls.append(("animals", names(events)))

    connect(post_db_change, receive)
    with Listening(replace(config, max_batch=2)):
        with transaction.atomic():
            Keeper.objects.create(name="Ada")
            Animal.objects.create(name="Leo")
            Keeper.objects.create(name="Bob")
        wait(1)

    assert calls == [
        ("change", ["Ada"]),
        ("change", ["Leo"]),
        ("handler", ["Ada", "Leo"]),
        ("animals", ["Leo"]),
        ("part", ["Ada", "Leo"]),
        ("change", ["Bob"]),
        ("handler", ["Bob"]),
        ("last", ["Bob"]),
    ]


def test_message_splits_a_transaction(
    config: StreamConfig,
    calls: list[tuple[str, Any]],
    wait: Callable[[int], None],
    connect: Connect,
) -> None:
    """Messages of walex_django itself do not split it."""

    def receive(message: Any, **kwargs: Any) -> None:
        calls.append(("message", message.prefix))

    def emit(prefix: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '{}')", [prefix])

    connect(post_db_message, receive)
    with Listening(replace(config, messages=("*",))):
        with transaction.atomic():
            emit("first")
            write("Ada")
            emit("walex_django.else")
            write("Bob")
            emit("zoo")
            write("Eve")
            emit("end")
        emit("alone")
        write("Kim")
        wait(2)

    assert calls == [
        ("message", "first"),
        ("part", ["Ada", "Bob"]),
        ("message", "zoo"),
        ("part", ["Eve"]),
        ("message", "end"),
        ("last", []),
        ("message", "alone"),
        ("last", ["Kim"]),
    ]
