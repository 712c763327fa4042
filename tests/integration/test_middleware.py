"""Messages pass through MESSAGE_MIDDLEWARE."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event as Flag
from threading import Thread
from typing import Any

import psycopg
import pytest
from django.db import connection, connections, transaction
from pytest_django import Settings

from tests.listening import Connect, Listening
from tests.process import Process, eventually
from tests.zoo.models import Animal, Keeper
from walex_django import Event
from walex_django.checks import check_settings
from walex_django.conf import configs, stored
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.middleware import StreamEnded
from walex_django.listening.listener import Listener
from walex_django.models import StreamSetting
from walex_django.pgoutput.messages import Commit, Insert, Message
from walex_django.signals import (
    post_db_change,
    post_db_insert,
    post_db_message,
    post_db_transaction,
)

from .stream import Stream
from .test_mistakes import ONE

pytestmark = pytest.mark.django_db(transaction=True)

Deliver = Callable[[Message], None]


class Holding:
    """A middleware that holds all messages until they are released."""

    def __init__(self) -> None:
        self.held: list[tuple[Message, Deliver]] = []
        self._lock = threading.Lock()

    def __call__(self, message: Message, deliver: Deliver) -> None:
        with self._lock:
            self.held.append((message, deliver))

    def holds(self, commits: int) -> bool:
        """Return whether it holds that many complete transactions."""
        with self._lock:
            return sum(type(message) is Commit for message, _ in self.held) == commits

    def release(self) -> None:
        """Deliver the held messages, in the thread that calls this."""
        with self._lock:
            held, self.held = self.held, []
        for message, deliver in held:
            deliver(message)


@pytest.fixture
def frequent_status(durable: StreamConfig) -> StreamConfig:
    """A stream that frequently reports its position to the server."""
    return replace(durable, subscriptions=("zoo.Keeper",), status_interval=0.02)


class Slot:
    """The durable slot, as the server sees it."""

    def __init__(self, sql: psycopg.Connection[Any]) -> None:
        self._sql = sql

    def has_confirmed(self, position: str) -> bool:
        query = (
            "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots"
            " WHERE slot_name = 'zoo_walex'"
        )
        row = self._sql.execute(query, [position]).fetchone()
        assert row
        return bool(row[0])

    def end_of_wal(self) -> str:
        row = self._sql.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row
        return str(row[0])

    def wait_for_replies(self, times: int) -> None:
        """Wait until the listener has reported its position that many times."""
        for _ in range(times):
            before = self._last_reply()
            eventually(lambda: self._last_reply() != before, "a reply")  # noqa: B023

    def _last_reply(self) -> Any:
        query = (
            "SELECT reply_time FROM pg_stat_replication"
            " JOIN pg_replication_slots ON pid = active_pid"
            " WHERE slot_name = 'zoo_walex'"
        )
        return self._sql.execute(query).fetchone()


@pytest.fixture
def slot(sql: psycopg.Connection[Any]) -> Slot:
    return Slot(sql)


def names(events: list[Event]) -> list[str]:
    return [event.new_record["name"] for event in events if event.new_record]


def write(*names: str) -> None:
    """Commit keepers, each in a transaction of its own."""
    for name in names:
        Keeper.objects.create(name=name)


def test_middleware_sees_each_message_in_order(config: StreamConfig) -> None:
    seen: list[str] = []

    def watch(message: Message, deliver: Deliver) -> None:
        seen.append(type(message).__name__)
        deliver(message)

    with Listening(replace(config, message_middleware=watch)) as listening:
        with transaction.atomic():
            keeper = Keeper.objects.create(name="Ada")
            Keeper.objects.update(name="Grace")
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_logical_emit_message(true, 'zoo', '')")
            keeper.delete()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_logical_emit_message(false, 'zoo', '')")
            cursor.execute("TRUNCATE zoo_keeper CASCADE")
        listening.wait_for(5)

    rows = ["Insert", "Update", "LogicalMessage", "Delete"]
    assert seen[:7] == ["Begin", "Relation", *rows, "Commit"]
    assert seen[7:9] == ["LogicalMessage", "Begin"]
    assert seen[-2:] == ["Truncate", "Commit"]


def test_middleware_that_passes_everything_on_changes_nothing(
    config: StreamConfig, connect: Connect
) -> None:
    """Two streams read the same changes; one has a middleware."""
    received: dict[str, list[object]] = {"plain": [], "around": []}

    ended: list[str] = []

    def receive_event(sender: Any, event: Event, stream: str, **kwargs: Any) -> None:
        received[stream].append((sender, event.as_dict()))

    def receive_transaction(
        events: Any, last: bool, stream: str, **kwargs: Any
    ) -> None:
        received[stream].append((len(events), last))
        if events and (events[-1].new_record or {}).get("name") == "last":
            ended.append(stream)

    def receive_message(message: Any, stream: str, **kwargs: Any) -> None:
        received[stream].append(message)

    connect(post_db_change, receive_event)
    connect(post_db_transaction, receive_transaction)
    connect(post_db_message, receive_message)
    plain = replace(config, name="plain", max_batch=3, messages=("*",))
    around = replace(
        plain,
        name="around",
        slot_name="zoo_around",
        message_middleware=lambda message, deliver: deliver(message),
    )
    with Listening(plain), Listening(around):
        with transaction.atomic():
            Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(10))
            Animal.objects.create(name="Leo", story="x" * 5000)
            Animal.objects.update(name="Rex")
            stored.announce(config)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_logical_emit_message(true, 'zoo', 'a')")
            Keeper.objects.filter(name__gt="5").delete()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_logical_emit_message(false, 'zoo', 'b')")
            cursor.execute("TRUNCATE zoo_keeper CASCADE")
        write("last")
        eventually(lambda: len(ended) == 2, "the end of both")

    assert received["plain"] == received["around"]
    assert len(received["plain"]) > 20


def test_wide_rows_are_delivered_in_chunks_that_fit_in_memory(
    config: StreamConfig, connect: Connect
) -> None:
    sizes: list[int] = []

    def measure(events: list[Event], **kwargs: Any) -> None:
        sizes.append(len(events))

    connect(post_db_transaction, measure)
    config = replace(
        config, message_middleware=lambda message, deliver: deliver(message)
    )
    with Listening(config) as listening:
        Animal.objects.bulk_create(
            Animal(name="wide", story="x" * 3_000_000) for _ in range(7)
        )
        listening.wait_for(7)
        eventually(lambda: sum(sizes) == 7)

    assert sizes == [3, 3, 1]


def test_rows_dropped_by_middleware_are_not_delivered(
    frequent_status: StreamConfig, slot: Slot
) -> None:
    def without_bots(message: Message, deliver: Deliver) -> None:
        if not (isinstance(message, Insert) and b"bot" in message.new):
            deliver(message)

    with Listening(
        replace(frequent_status, message_middleware=without_bots)
    ) as listening:
        Keeper.objects.bulk_create(Keeper(name=name) for name in ("bot", "Ada", "bot"))
        write("bot", "Bob", "bot")
        end = slot.end_of_wal()
        assert names(listening.wait_for(2)) == ["Ada", "Bob"]
        eventually(lambda: slot.has_confirmed(end), "the acknowledgement")


def test_undelivered_messages_are_not_acknowledged(
    frequent_status: StreamConfig, slot: Slot, sql: psycopg.Connection[Any]
) -> None:
    holding = Holding()
    with Listening(replace(frequent_status, message_middleware=holding)) as listening:
        before = slot.end_of_wal()
        write("Ada", "Bob")
        first = slot.end_of_wal()
        eventually(lambda: holding.holds(2), "both transactions")
        # Keepalives report WAL that other sessions write.
        sql.execute("SELECT pg_create_restore_point('later')")
        slot.wait_for_replies(5)
        assert not slot.has_confirmed(first)
        assert not listening.events

        holding.release()
        assert names(listening.wait_for(2)) == ["Ada", "Bob"]
        eventually(lambda: slot.has_confirmed(first), "the acknowledgement")
        # Now that nothing is held, the idle slot advances.
        sql.execute("SELECT pg_create_restore_point('idle')")
        end = slot.end_of_wal()
        eventually(lambda: slot.has_confirmed(end), "the end of the WAL")
    assert before < end


def test_only_delivered_transactions_are_acknowledged(
    frequent_status: StreamConfig, slot: Slot
) -> None:
    """The first transaction is delivered while others are held."""
    holding = Holding()
    with Listening(replace(frequent_status, message_middleware=holding)) as listening:
        write("Ada")
        first = slot.end_of_wal()
        eventually(lambda: holding.holds(1), "the first")
        (*early,) = holding.held
        write("Bob", "Eve")
        last = slot.end_of_wal()
        eventually(lambda: holding.holds(3), "all of them")
        for message, deliver in early:
            deliver(message)
        del holding.held[: len(early)]
        assert names(listening.wait_for(1)) == ["Ada"]
        eventually(lambda: slot.has_confirmed(first), "the first one's")
        slot.wait_for_replies(5)
        assert not slot.has_confirmed(last)

        holding.release()
        listening.wait_for(3)
        eventually(lambda: slot.has_confirmed(last), "the acknowledgement")


def test_messages_held_at_stop_are_delivered_again(
    frequent_status: StreamConfig, slot: Slot
) -> None:
    holding = Holding()
    with Listening(replace(frequent_status, message_middleware=holding)):
        write("Ada", "Bob")
        end = slot.end_of_wal()
        eventually(lambda: holding.holds(2), "both transactions")
    assert not slot.has_confirmed(end)
    with pytest.raises(StreamEnded):
        holding.release()

    with Listening(frequent_status) as listening:
        assert names(listening.wait_for(2)) == ["Ada", "Bob"]


def test_messages_held_at_lost_connection_are_delivered_again(
    frequent_status: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    holding = Holding()
    with Listening(replace(frequent_status, message_middleware=holding)) as listening:
        write("Ada")
        eventually(lambda: holding.holds(1), "the transaction")
        sql.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = 'zoo_walex'"
        )
        # Each connection has a `deliver` of its own.
        eventually(lambda: holding.holds(2), "the transaction, again")
        (_, first), (_, second) = holding.held[0], holding.held[-1]
        assert first != second
        ended, holding.held = holding.held, []
        holding.held = [each for each in ended if each[1] == second]
        with pytest.raises(StreamEnded):
            first(ended[0][0])
        holding.release()
        assert names(listening.wait_for(1)) == ["Ada"]


def test_partly_delivered_transaction_is_finished_before_stop(
    frequent_status: StreamConfig, slot: Slot
) -> None:
    holding = Holding()
    with Listening(
        replace(frequent_status, message_middleware=holding, max_batch=1)
    ) as one:
        Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(4))
        eventually(lambda: holding.holds(1), "the transaction")
        held = holding.held
        while len(one.events) < 1:
            message, deliver = held.pop(0)
            deliver(message)
            if type(message) is Insert and len(held) < 4:
                one.wait_until(lambda: len(one.events) > 0)
        one._listener.stop()
        holding.release()
        assert one.wait_for_end() is None
        assert names(one.events) == ["0", "1", "2", "3"]
    assert slot.has_confirmed(str(one.events[0].lsn))


def test_drain_waits_for_held_messages(frequent_status: StreamConfig) -> None:
    holding = Holding()
    received: list[str] = []

    def receive(event: Event, **kwargs: Any) -> None:
        received.extend(names([event]))

    write("Ada", "Bob")
    listener = Listener(
        replace(frequent_status, message_middleware=holding), drain=True
    )

    def drain() -> None:
        listener.run()
        connections.close_all()

    thread = Thread(target=drain)
    post_db_insert.connect(receive)
    try:
        thread.start()
        eventually(lambda: holding.holds(2), "both transactions")
        assert thread.is_alive()
        holding.release()
        thread.join(20)
    finally:
        post_db_insert.disconnect(receive)
        listener.stop()
    assert not thread.is_alive()
    assert received == ["Ada", "Bob"]


def test_message_delivered_by_another_thread_is_processed_immediately(
    config: StreamConfig,
) -> None:
    """The listener doesn't wait until its next status update is due."""
    holding = Holding()
    with Listening(
        replace(config, message_middleware=holding, status_interval=10)
    ) as listening:
        write("Ada")
        eventually(lambda: holding.holds(1), "the transaction")
        before = time.monotonic()
        holding.release()
        listening.wait_for(1)
        assert time.monotonic() - before < 5


def test_deliver_blocks_when_receivers_are_slower(
    frequent_status: StreamConfig, slot: Slot, connect: Connect
) -> None:
    holding, work = Holding(), Flag()
    counts: list[int] = []

    def wait(event: Event, **kwargs: Any) -> None:
        assert work.wait(20)

    def deliver_all() -> None:
        for message, deliver in holding.held:
            deliver(message)
            counts.append(1)

    connect(post_db_insert, wait)
    with Listening(replace(frequent_status, message_middleware=holding)) as listening:
        # The first one's receiver waits before the others are delivered.
        write("first")
        eventually(lambda: holding.holds(1), "the first")
        Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(3000))
        eventually(lambda: holding.holds(2), "all of them")
        thread = Thread(target=deliver_all)
        thread.start()
        eventually(lambda: len(counts) >= 1000, "1,000 messages")
        slot.wait_for_replies(5)
        assert len(counts) < 1100
        assert thread.is_alive()
        work.set()
        listening.wait_for(3001)
        thread.join(20)
        assert not thread.is_alive()


def test_blocked_deliver_raises_when_stream_ends(
    frequent_status: StreamConfig, connect: Connect
) -> None:
    holding, work = Holding(), Flag()
    ends: list[Exception] = []

    def wait(event: Event, **kwargs: Any) -> None:
        assert work.wait(20)

    def deliver_all() -> None:
        try:
            holding.release()
        except StreamEnded as error:
            ends.append(error)

    connect(post_db_insert, wait)
    with Listening(replace(frequent_status, message_middleware=holding)) as listening:
        write(*map(str, range(600)))
        eventually(lambda: holding.holds(600), "all of them")
        thread = Thread(target=deliver_all)
        thread.start()
        listening._listener.stop()
        work.set()
    thread.join(20)
    assert not thread.is_alive()
    assert len(ends) == 1


def test_changed_settings_pass_through_middleware(
    config: StreamConfig, settings: Settings
) -> None:
    settings.WALEX = dict(settings.WALEX)
    holding = Holding()
    config = replace(config, subscriptions=("zoo.Keeper",), message_middleware=holding)
    configs.replace_config("default", "SUBSCRIPTIONS", ["zoo.Keeper"])
    with Listening(config) as listening:
        Animal.objects.create(name="nobody's")
        # Like a change by another process: this process would apply its own at once.
        StreamSetting.objects.create(
            stream="default", key="SUBSCRIPTIONS", value=["zoo.Animal"]
        )
        stored.announce(config)
        Animal.objects.create(name="Leo")
        eventually(lambda: sum(type(m) is Commit for m, _ in holding.held) >= 3)
        holding.release()
        assert names(listening.wait_for(1)) == ["Leo"]


BROKEN = """
def fail(message, deliver):
    if type(message).__name__ == "Insert":
        raise OSError("no room on the disk")
    deliver(message)
"""


def test_failing_middleware_ends_listener(stream: Stream, tmp_path: Any) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    env = {
        **stream.env,
        "PYTHONPATH": str(tmp_path),
        "ZOO_STREAM": '{"MESSAGE_MIDDLEWARE": "broken.fail"}',
    }
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("Quit with")
        stream.write("Ada")
        assert listener.wait() == 1
    assert listener.output.count("Traceback") == 1
    listener.wait_for(
        "CommandError: default: MESSAGE_MIDDLEWARE failed on Insert;"
        " its transaction is not acknowledged."
    )
    assert listener.lines[-1] == "OSError: no room on the disk"

    with stream.listening():
        eventually(lambda: stream.delivered() == ["Ada"])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("zoo.gone.pass_on", "No module named 'zoo'"),
        ("tests.zoo.gone", 'does not define a "gone" attribute'),
        ("tests.process.TIMEOUT", "tests.process.TIMEOUT is not callable"),
    ],
)
def test_e009_wrong_path(
    stream: Stream, settings: Settings, path: str, reason: str
) -> None:
    settings.WALEX = {"default": {"MESSAGE_MIDDLEWARE": path}}
    (found,) = check_settings()
    assert found.id == "walex_django.E009"
    assert "MESSAGE_MIDDLEWARE" in found.msg
    assert reason in found.msg

    env = {**stream.env, "ZOO_STREAM": f'{{"MESSAGE_MIDDLEWARE": "{path}"}}'}
    with Process("walex_listen", *ONE, env=env) as listener:
        assert listener.wait() == 1
    assert "walex_django.E009" in listener.output
