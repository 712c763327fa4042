"""Receivers that change an event, and the receivers after them."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.listening import Connect, Listening
from tests.zoo.models import Keeper
from walex_django import Event, on_insert
from walex_django.conf.stream import StreamConfig
from walex_django.models import ParkedEvent
from walex_django.signals import post_db_insert

pytestmark = pytest.mark.django_db(transaction=True)


class Renames:
    """A receiver that changes the event, and then perhaps raises."""

    def __init__(self, *, is_copying: bool = False, fails: bool = False) -> None:
        self.is_copying, self.fails = is_copying, fails
        self.names: list[str] = []

    def __call__(self, event: Event, **kwargs: Any) -> None:
        assert event.new_record is not None
        self.names.append(event.new_record["name"])
        event.instance  # noqa: B018 - loaded, as by a receiver that reads it
        if self.is_copying:
            event = copy(event)
        assert isinstance(event.instance, Keeper)
        assert event.new_record is not None
        event.instance.name = event.new_record["name"] = "changed"
        if event.context is not None:
            event.context["name"] = "changed"
        if self.fails:
            raise ValueError


class Reads:
    """A receiver that notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def __call__(self, event: Event, **kwargs: Any) -> None:
        assert isinstance(event.instance, Keeper)
        assert event.new_record is not None
        name = event.context and event.context["name"]
        self.seen.append((event.instance.name, event.new_record["name"], name))


WRITE = """
SELECT pg_logical_emit_message(true, 'walex_django.context', '{"name": "Ada"}');
INSERT INTO zoo_keeper (name) VALUES ('Ada')
"""


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("is_copying", [False, True], ids=["shared", "copied"])
def test_receivers_share_an_event_unless_they_copy_it(
    config: StreamConfig,
    connect: Connect,
    sql: psycopg.Connection[Any],
    is_copying: bool,
) -> None:
    reads, handled = Reads(), Reads()
    connect(post_db_insert, Renames(is_copying=is_copying))
    connect(post_db_insert, reads)

    @on_insert(Keeper)
    def handle(events: list[Event]) -> None:
        for event in events:
            handled(event)

    with Listening(config) as listening:
        with sql.transaction():
            for statement in WRITE.split(";"):
                sql.execute(statement.encode())
        listening.wait_for(1)

    name = "Ada" if is_copying else "changed"
    assert reads.seen == handled.seen == [(name, name, name)]


@pytest.mark.parametrize("is_copying", [False, True], ids=["shared", "copied"])
def test_what_is_parked_is_the_row_as_it_was_sent(
    config: StreamConfig, connect: Connect, is_copying: bool
) -> None:
    renames = Renames(is_copying=is_copying, fails=True)
    connect(post_db_insert, renames)
    with Listening(replace(config, max_retries=1, retry_backoff=0.001)) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
    assert renames.names == ["Ada", "Ada" if is_copying else "changed"]
    assert ParkedEvent.objects.get().arguments["event"]["new_record"]["name"] == "Ada"


def test_a_copy_is_equal_and_has_values_of_its_own(listening: Listening) -> None:
    Keeper.objects.create(name="Ada")
    (event,) = listening.wait_for(1)
    other = copy(event)
    assert other == event
    assert other.as_dict() == event.as_dict()
    assert other.instance is not event.instance
    assert other.instance == event.instance
    assert other.new_record is not event.new_record
    assert other.new_record == event.new_record
    assert json.loads(other.as_json()) == event.as_dict()
