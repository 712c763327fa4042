"""post_db_transaction beside filters, handlers, messages and parts of transactions."""

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
def heard(connect: Connect) -> list[tuple[str, Any]]:
    """What was heard, in order: transactions with whether it was their last part."""
    heard: list[tuple[str, Any]] = []

    def hear(events: list[Event], last: bool, **kwargs: Any) -> None:
        heard.append(("last" if last else "part", names(events)))

    connect(post_db_transaction, hear)
    return heard


@pytest.fixture
def wait(heard: list[tuple[str, Any]]) -> Callable[[int], None]:
    """Wait until so many transactions were heard of, whole."""

    def wait(count: int) -> None:
        eventually(
            lambda: sum(kind == "last" for kind, _ in heard) == count, "the last one"
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
def test_the_last_part_is_told(
    config: StreamConfig,
    heard: list[tuple[str, Any]],
    wait: Callable[[int], None],
    count: int,
    parts: list[tuple[str, int]],
) -> None:
    with Listening(replace(config, max_batch=3)):
        write(*map(str, range(count)))
        wait(1)

    assert [(kind, len(part)) for kind, part in heard] == parts
    assert [name for _, part in heard for name in part] == list(map(str, range(count)))


def test_what_the_stream_filters_is_in_no_part(
    config: StreamConfig, heard: list[tuple[str, Any]], wait: Callable[[int], None]
) -> None:
    """Parts are of what is delivered; of nothing, nothing is told."""
    config = replace(config, filters={"zoo.Keeper": OUT}, max_batch=2)
    with Listening(config) as listening:
        write("out", "1", "out", "2", "out", "3", "out")
        write("out")
        write("out", "out", "4")
        wait(2)
        ordinals = [event.ordinal for event in listening.events]

    assert heard == [("part", ["1", "2"]), ("last", ["3"]), ("last", ["4"])]
    # Places in the transaction are those that the server gave.
    assert ordinals == [2, 4, 6, 3]


def test_a_condition_of_the_stream_counts_too(
    config: StreamConfig, heard: list[tuple[str, Any]], wait: Callable[[int], None]
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

    assert heard == [("last", ["Grace", "Ludwig"]), ("last", ["Judith"])]


def test_filters_of_a_handler_are_its_own(
    config: StreamConfig, heard: list[tuple[str, Any]], wait: Callable[[int], None]
) -> None:
    @on_insert(Keeper, unwatched_records={"name": "out"})
    def keepers(events: list[Event]) -> None:
        heard.append(("keepers", names(events)))

    with Listening(config):
        write("out", "in")
        write("out")
        wait(2)

    assert heard == [
        ("keepers", ["in"]),
        ("last", ["out", "in"]),
        ("last", ["out"]),
    ]


def test_it_comes_after_signals_and_handlers_of_the_same_part(
    config: StreamConfig,
    heard: list[tuple[str, Any]],
    wait: Callable[[int], None],
    connect: Connect,
) -> None:
    def hear(event: Event, **kwargs: Any) -> None:
        heard.append(("change", names([event])))

    @on_event("zoo.*")
    def handle(events: list[Event]) -> None:
        heard.append(("handler", names(events)))

    @on_insert(Animal)
    def animals(events: list[Event]) -> None:
        heard.append(("animals", names(events)))

    connect(post_db_change, hear)
    with Listening(replace(config, max_batch=2)):
        with transaction.atomic():
            Keeper.objects.create(name="Ada")
            Animal.objects.create(name="Leo")
            Keeper.objects.create(name="Bob")
        wait(1)

    assert heard == [
        ("change", ["Ada"]),
        ("change", ["Leo"]),
        ("handler", ["Ada", "Leo"]),
        ("animals", ["Leo"]),
        ("part", ["Ada", "Leo"]),
        ("change", ["Bob"]),
        ("handler", ["Bob"]),
        ("last", ["Bob"]),
    ]


def test_a_message_comes_in_its_place(
    config: StreamConfig,
    heard: list[tuple[str, Any]],
    wait: Callable[[int], None],
    connect: Connect,
) -> None:
    """Unlike what walex_django itself writes, it parts a transaction."""

    def hear(message: Any, **kwargs: Any) -> None:
        heard.append(("message", message.prefix))

    def emit(prefix: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '{}')", [prefix])

    connect(post_db_message, hear)
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

    assert heard == [
        ("message", "first"),
        ("part", ["Ada", "Bob"]),
        ("message", "zoo"),
        ("part", ["Eve"]),
        ("message", "end"),
        ("last", []),
        ("message", "alone"),
        ("last", ["Kim"]),
    ]
