"""With ATOMIC each transaction is processed exactly once, whatever fails meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
from django.db import OperationalError, connections

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Keeper, Mascot
from walex_django.conf.stream import StreamConfig
from walex_django.models import Checkpoint, ParkedEvent
from walex_django.pgoutput.messages import LogicalMessage
from walex_django.signals import post_db_insert, post_db_message, post_db_transaction

from .mascots import (
    Gates,
    Sql,
    acknowledged,
    adopt,
    adopted,
    cut_stream,
    position,
    wait_until_adopted,
)

pytestmark = pytest.mark.django_db(transaction=True)

INSERT = "INSERT INTO zoo_keeper (name) VALUES (%s)"
EMIT = "SELECT pg_logical_emit_message(%s, 'zoo', %s)"


def adopt_message(message: LogicalMessage, **kwargs: Any) -> None:
    """Create a mascot for a message (a receiver)."""
    Mascot.objects.create(name=message.content.decode())


@pytest.fixture
def message_stream(atomic: StreamConfig, connect: Connect) -> StreamConfig:
    """A stream with messages; receivers create a mascot for each message and row."""
    connect(post_db_insert, adopt)
    connect(post_db_message, adopt_message)
    return replace(atomic, messages=("*",))


def _insert(sql: Sql) -> list[str]:
    sql.execute(INSERT, ["Ada"])
    return ["Ada"]


def _emit_non_transactional(sql: Sql) -> list[str]:
    sql.execute(EMIT, [False, "outside"])
    sql.execute(INSERT, ["Ada"])
    return ["outside", "Ada"]


def _emit_non_transactional_in_transaction(sql: Sql) -> list[str]:
    # The message ends where the COMMIT starts.
    with sql.transaction():
        sql.execute(INSERT, ["Ada"])
        sql.execute(EMIT, [False, "outside"])
    return ["outside", "Ada"]


def _emit_transactional(sql: Sql) -> list[str]:
    with sql.transaction():
        sql.execute(EMIT, [True, "first"])
        sql.execute(INSERT, ["Ada"])
        sql.execute(EMIT, [True, "last"])
    return ["first", "Ada", "last"]


def _emit_transactional_alone(sql: Sql) -> list[str]:
    sql.execute(EMIT, [True, "alone"])
    return ["alone"]


@pytest.fixture(
    params=[
        _insert,
        _emit_non_transactional,
        _emit_non_transactional_in_transaction,
        _emit_transactional,
        _emit_transactional_alone,
    ],
    ids=lambda write: write.__name__,
)
def write(request: pytest.FixtureRequest) -> Callable[[Sql], list[str]]:
    """A function that writes something and returns the names to be delivered."""
    write: Callable[[Sql], list[str]] = request.param
    return write


class TestLostAcknowledgement:
    """The server resends changes if their acknowledgement was lost."""

    def test_lost_acknowledgement_repeats_nothing(
        self,
        message_stream: StreamConfig,
        connect: Connect,
        sql: Sql,
        write: Callable[[Sql], list[str]],
    ) -> None:
        gates = Gates(1)
        for signal in (post_db_insert, post_db_message):
            connect(signal, gates)
        with Listening(message_stream):
            names = write(sql)
            gates[0].wait()
            cut_stream(sql)
            gates[0].open()
            wait_until_adopted(sql, *names)
            sql.execute(INSERT, ["Bob"])
            wait_until_adopted(sql, *names, "Bob")

    def test_restarts_repeat_nothing(
        self, message_stream: StreamConfig, sql: Sql, write: Callable[[Sql], list[str]]
    ) -> None:
        with Listening(message_stream):
            names = write(sql)
            wait_until_adopted(sql, *names)
        for name in ("Bob", "Eve"):
            with Listening(message_stream):
                sql.execute(INSERT, [name])
                names.append(name)
                wait_until_adopted(sql, *names)

    def test_changes_before_checkpoint_are_only_acknowledged(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        connect(post_db_insert, adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "Ada")

        Keeper.objects.create(name="done elsewhere")
        ((done,),) = sql.execute("SELECT pg_current_wal_flush_lsn() - '0/0'")
        Checkpoint.objects.update(position=done)
        with Listening(atomic) as listening:
            eventually(lambda: acknowledged(sql, done - 1), "the acknowledgement")
            assert position(sql) == done
            Keeper.objects.create(name="Bob")
            wait_until_adopted(sql, "Ada", "Bob")
        (event,) = listening.events
        assert position(sql) == event.lsn


class TestTwoListeners:
    """A listener without a stream is still working when another takes over the slot."""

    @pytest.mark.parametrize("faster", [0, 1], ids=["first wins", "second wins"])
    def test_only_one_listener_commits(
        self, atomic: StreamConfig, connect: Connect, sql: Sql, faster: int
    ) -> None:
        gates = Gates(2)
        connect(post_db_insert, adopt)
        connect(post_db_transaction, gates)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            gates[0].wait()
            cut_stream(sql)
            with Listening(atomic):
                gates[1].wait()
                assert adopted(sql) == []
                gates[faster].open()
                wait_until_adopted(sql, "Ada")
                gates[1 - faster].open()
                Keeper.objects.create(name="Bob")
                wait_until_adopted(sql, "Ada", "Bob")

    @pytest.mark.usefixtures("slow_checkpoint")
    def test_takeover_during_commit(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        connect(post_db_insert, adopt)
        with Listening(atomic):
            sql.execute("SELECT pg_advisory_lock(1)")
            Keeper.objects.create(name="Ada")
            eventually(lambda: _waiting(sql) == 1, "the commit")
            cut_stream(sql)

            def release() -> None:
                eventually(lambda: _waiting(sql) == 2, "the takeover")
                sql.execute("SELECT pg_advisory_unlock(1)")

            releaser = Thread(target=release)
            releaser.start()
            with Listening(atomic):
                releaser.join()
                Keeper.objects.create(name="Bob")
                wait_until_adopted(sql, "Ada", "Bob")


_SLOW = """
CREATE FUNCTION zoo_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE TRIGGER zoo_wait AFTER UPDATE ON walex_django_checkpoint FOR EACH ROW
WHEN (OLD.position <> NEW.position) EXECUTE FUNCTION zoo_wait()
"""


@pytest.fixture
def slow_checkpoint(atomic: StreamConfig, sql: Sql) -> Iterator[None]:
    """Storing a position waits for advisory lock 1 before the commit."""
    sql.execute(_SLOW)
    yield
    sql.execute("DROP FUNCTION zoo_wait CASCADE")


def _waiting(sql: Sql) -> int:
    ((count,),) = sql.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return int(count)


class TestLostDatabaseConnection:
    """The server ends the session in which receivers work."""

    def _terminate_own_backend(self) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def test_receiver_raises_the_error(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        calls: list[None] = []

        def end(**kwargs: Any) -> None:
            calls.append(None)
            if len(calls) == 1:
                self._terminate_own_backend()

        self._assert_delivery_continues(atomic, connect, sql, end)
        assert len(calls) == 3

    def test_receiver_swallows_the_error(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        calls: list[None] = []

        def end(**kwargs: Any) -> None:
            calls.append(None)
            if len(calls) == 1:
                with pytest.raises(OperationalError):
                    self._terminate_own_backend()

        self._assert_delivery_continues(atomic, connect, sql, end)
        assert len(calls) == 3

    @pytest.mark.parametrize("signal", [post_db_insert, post_db_transaction])
    def test_connection_is_lost_while_receiver_runs(
        self, atomic: StreamConfig, connect: Connect, sql: Sql, signal: Any
    ) -> None:
        gates = Gates(1)
        connect(post_db_insert, adopt)
        connect(signal, gates)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            gates[0].wait()
            # The listener's session is the one with an uncommitted write.
            sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_xid IS NOT NULL AND datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
            gates[0].open()
            wait_until_adopted(sql, "Ada")
            Keeper.objects.create(name="Bob")
            wait_until_adopted(sql, "Ada", "Bob")
        assert not ParkedEvent.objects.exists()

    def _assert_delivery_continues(
        self, atomic: StreamConfig, connect: Connect, sql: Sql, end: Any
    ) -> None:
        connect(post_db_insert, adopt)
        connect(post_db_insert, end)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "Ada")
            Keeper.objects.create(name="Bob")
            wait_until_adopted(sql, "Ada", "Bob")
        assert not ParkedEvent.objects.exists()
