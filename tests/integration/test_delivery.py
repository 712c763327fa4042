"""How receivers are called, and what happens when they raise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.db import connections

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper, TameAnimal
from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.replication import slots
from walex_django.signals import (
    ALL,
    StreamSignal,
    post_db_change,
    post_db_delete,
    post_db_insert,
    post_db_message,
    post_db_transaction,
    post_db_update,
)

pytestmark = pytest.mark.django_db(transaction=True)

Record = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def record(connect: Connect) -> Record:
    """Return a function that connects a receiver and returns the list of its calls."""

    def record(signal: StreamSignal, sender: Any = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def receiver(**named: Any) -> None:
            calls.append(named)

        connect(signal, receiver, sender)
        return calls

    return record


def test_receivers_get_events_of_their_sender_only(
    listening: Listening, record: Record
) -> None:
    keepers = record(post_db_insert, Keeper)
    animals = record(post_db_insert, "zoo.Animal")
    proxies = record(post_db_insert, TameAnimal)
    updates = record(post_db_update)
    deletes = record(post_db_delete)
    keeper = Keeper.objects.create(name="Ada")
    Animal.objects.create(name="Leo")
    Keeper.objects.update(name="Grace")
    keeper.delete()
    events = listening.wait_for(4)

    assert [call["event"] for call in keepers] == [events[0]]
    assert [call["event"] for call in animals] == [events[1]]
    assert [call["event"] for call in proxies] == [events[1]]
    assert [call["event"] for call in updates] == [events[2]]
    assert [call["event"] for call in deletes] == [events[3]]
    assert keepers[0] == {
        "signal": post_db_insert,
        "sender": Keeper,
        "event": events[0],
        "stream": "default",
    }


def test_coroutine_functions_can_be_receivers(listening: Listening) -> None:
    received: list[str] = []

    async def receiver(event: Event, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        received.append(event.id)

    post_db_insert.connect(receiver, sender=Keeper)
    Keeper.objects.create(name="Ada")
    (event,) = listening.wait_for(1)
    post_db_insert.disconnect(receiver, sender=Keeper)

    assert received == [event.id]


def test_long_transaction_is_delivered_in_chunks(
    config: StreamConfig, record: Record
) -> None:
    chunks = record(post_db_transaction)
    with Listening(replace(config, max_batch=4)) as listening:
        Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(8))
        Keeper.objects.create(name="alone")
        events = listening.wait_for(9)
        listening.wait_until(lambda: len(chunks) == 3)

    assert [call["events"] for call in chunks] == [events[:4], events[4:8], events[8:]]
    assert [call["last"] for call in chunks] == [False, True, True]
    assert {call["sender"] for call in chunks} == {None}


def test_wide_rows_make_small_chunks(
    config: StreamConfig, sql: psycopg.Connection[Any], record: Record
) -> None:
    chunks = record(post_db_transaction)
    with Listening(config) as listening:
        sql.execute(
            "INSERT INTO zoo_keeper (name) SELECT 'x' FROM generate_series(1, 3)"
        )
        sql.execute(
            "INSERT INTO legacy.nobody_knows (message)"
            " SELECT repeat('x', 3000000) FROM generate_series(1, 7)"
        )
        listening.wait_for(10)
        listening.wait_until(lambda: bool(chunks) and chunks[-1]["last"])

    sizes = [len(call["events"]) for call in chunks]
    assert sizes[0] == 3
    assert sum(sizes) == 10
    assert max(sizes[1:]) <= 3


def test_unsubscribed_changes_are_not_delivered_but_count_in_ordinals(
    config: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    with Listening(replace(config, subscriptions=("zoo.Animal",))) as listening:
        sql.execute(
            "WITH k AS (INSERT INTO zoo_keeper (name) VALUES ('Ada') RETURNING id)"
            " INSERT INTO zoo_animal (name, tame, tags, story)"
            " SELECT 'Leo', true, '{}', '' FROM k"
        )
        Keeper.objects.create(name="Grace")
        Animal.objects.create(name="Lea")

        leo, lea = listening.wait_for(2)
    assert {leo.model, lea.model} == {Animal}
    assert (leo.ordinal, lea.ordinal) == (2, 1)


def test_transaction_of_failing_receiver_is_not_acknowledged(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    def receiver(event: Event, **kwargs: Any) -> None:
        keeper: Any = event.instance
        if keeper.name == "bad":
            raise RuntimeError("no")

    post_db_insert.connect(receiver, sender=Keeper)
    strict = replace(durable, on_error="stop", max_retries=0)
    with Listening(strict) as listening:
        Keeper.objects.create(name="good")
        Keeper.objects.create(name="bad")
        error = listening.wait_for_end()
    post_db_insert.disconnect(receiver, sender=Keeper)

    assert isinstance(error, ReceiverFailed)
    assert error.receiver.endswith("receiver")
    assert isinstance(error.__cause__, RuntimeError)
    (good,) = listening.events
    slot = slots.find(sql, durable.slot_name)
    assert slot is not None
    assert slot.confirmed_lsn is not None
    # The first is acknowledged; the second is delivered again.
    assert slot.confirmed_lsn > good.lsn
    with Listening(durable) as listening:
        (again,) = listening.wait_for(1)
    assert again.id == error.subject


def test_nothing_is_acknowledged_while_receiver_runs(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    """Neither by the heartbeat nor in reply to a keepalive for later WAL."""
    positions: list[Any] = []

    def receiver(event: Event, **kwargs: Any) -> None:
        with connections["default"].cursor() as cursor:
            # WAL of an unpublished table makes the server request a reply.
            cursor.execute("CREATE TABLE IF NOT EXISTS noise AS SELECT 1")
            for _ in range(3):
                cursor.execute("SELECT reply_time FROM pg_stat_replication")
                before = cursor.fetchone()

                def answered(before: Any = before) -> bool:
                    cursor.execute("SELECT reply_time FROM pg_stat_replication")
                    return bool(cursor.fetchone() != before)

                eventually(answered, "a heartbeat")
        slot = slots.find(sql, durable.slot_name)
        assert slot is not None
        positions.append(slot.confirmed_lsn)

    post_db_insert.connect(receiver, sender=Keeper)
    with Listening(replace(durable, status_interval=0.05)) as listening:
        Keeper.objects.create(name="Ada")
        (event,) = listening.wait_for(1)
        eventually(lambda: _confirmed(sql, durable) > event.lsn, "acknowledgement")
    post_db_insert.disconnect(receiver, sender=Keeper)
    sql.execute("DROP TABLE noise")
    assert positions[0] <= event.lsn


def test_idle_slot_advances_past_unpublished_changes(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    with Listening(durable) as listening:
        sql.execute("CREATE TABLE unpublished AS SELECT generate_series(1, 10000)")
        ((end,),) = sql.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
        eventually(lambda: _confirmed(sql, durable) >= end, "the slot's advance")
        assert listening.events == []
    sql.execute("DROP TABLE unpublished")


def test_logical_messages_are_delivered_in_order(
    config: StreamConfig, sql: psycopg.Connection[Any], record: Record
) -> None:
    messages = record(post_db_message)
    everything = record(post_db_change)
    with Listening(replace(config, messages=("zoo",))) as listening:
        sql.execute("BEGIN")
        sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
        sql.execute("SELECT pg_logical_emit_message(true, 'zoo', 'within')")
        sql.execute("SELECT pg_logical_emit_message(true, 'other', 'not wanted')")
        sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Bob')")
        sql.execute("COMMIT")
        sql.execute("SELECT pg_logical_emit_message(false, 'zoo', '\\x00ff'::bytea)")
        # The next commit flushes a non-transactional message to disk.
        Keeper.objects.create(name="Eve")
        listening.wait_for(3)

    within, outside = (call["message"] for call in messages)
    assert (within.prefix, within.content, within.transactional) == (
        "zoo",
        b"within",
        True,
    )
    assert (outside.content, outside.transactional) == (b"\x00\xff", False)
    assert [call["event"].ordinal for call in everything] == [1, 2, 1]


def test_no_receiver_is_left_connected() -> None:
    """Each test above disconnects what it connects."""
    assert [signal.receivers for signal in ALL] == [[]] * len(ALL)


def _confirmed(sql: psycopg.Connection[Any], config: StreamConfig) -> int:
    slot = slots.find(sql, config.slot_name)
    assert slot is not None
    assert slot.confirmed_lsn is not None
    return slot.confirmed_lsn
