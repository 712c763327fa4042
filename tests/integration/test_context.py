"""Events carry the context of their changes, such as who made them and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from psycopg.sql import SQL, Identifier

from tests.listening import TIMEOUT, Listening
from tests.zoo.models import Animal, Keeper
from walex_django import Event
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.context import attach, context, current
from walex_django.messages import emit
from walex_django.provisioning.plan import setup_plan
from walex_django.replication import connection as replication

from .wal import WalReader

pytestmark = pytest.mark.django_db(transaction=True)


def hire(name: str = "Ada") -> None:
    Keeper.objects.create(name=name)


class TestEvents:
    """The context of the events that listeners receive."""

    def test_event_has_context_of_its_change(self, listening: Listening) -> None:
        at = datetime(2026, 1, 2, tzinfo=UTC)
        with context(reason="promotion", at=at, ids=[UUID(int=1)], note="ü \x00 %s '"):
            hire()
        hire("Bob")

        ada, bob = listening.wait_for(2)
        assert ada.context == {
            "reason": "promotion",
            "at": "2026-01-02T00:00:00Z",
            "ids": [str(UUID(int=1))],
            "note": "ü \x00 %s '",
        }
        assert bob.context is None

    def test_every_orm_write_has_context(self, listening: Listening) -> None:
        with context(job=7):
            ada, _ = Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="B")])
            Keeper.objects.update(name="Eve")
            ada.refresh_from_db()
            ada.name = "Ada"
            Keeper.objects.bulk_update([ada], ["name"])
            Animal.objects.create(name="Leo").keepers.add(ada)
            ada.animals.all().delete()  # type: ignore[attr-defined]

        events = listening.wait_for(9)
        assert [event.context for event in events] == [{"job": 7}] * 9

    def test_every_raw_sql_write_has_context(self, listening: Listening) -> None:
        composed = SQL("INSERT INTO {} (name) VALUES ({})").format(
            Identifier("zoo_keeper"), "100 %"
        )
        with context(job=7), connection.cursor() as cursor:
            cursor.execute(
                "WITH new AS (INSERT INTO zoo_keeper (name) VALUES ('Ada')"
                " RETURNING name) SELECT name FROM new"
            )
            assert cursor.fetchall() == [("Ada",)]
            cursor.execute(
                "/* who? */ INSERT INTO zoo_keeper (name) VALUES (%s) RETURNING name",
                ["Bob"],
            )
            assert cursor.fetchall() == [("Bob",)]
            cursor.executemany(
                "INSERT INTO zoo_keeper (name) VALUES (%s)", [["Cy"], ["Di"]]
            )
            assert cursor.rowcount == 2
            cursor.execute(composed)
            delete: Any = b"delete from zoo_keeper where name = 'Ada'"
            cursor.execute(delete)
            assert cursor.rowcount == 1
            cursor.execute(
                "MERGE INTO zoo_keeper USING (VALUES ('Bob')) AS new (name)"
                " ON zoo_keeper.name = new.name WHEN MATCHED THEN DELETE"
            )
            cursor.execute("TRUNCATE zoo_keeper CASCADE")

        events = listening.wait_for(9)
        assert [event.context for event in events] == [{"job": 7}] * 9

    def test_server_side_binding_has_context(self, listening: Listening) -> None:
        options = connection.settings_dict["OPTIONS"]
        connection.close()
        connection.settings_dict["OPTIONS"] = {**options, "server_side_binding": True}
        try:
            with context(job=7), transaction.atomic():
                hire()
                emit("zoo", {"a": 1})
                emit("zoo", b"at once", transactional=False)
            with context(job=8):
                hire()
        finally:
            connection.close()
            connection.settings_dict["OPTIONS"] = options

        contexts = [event.context for event in listening.wait_for(2)]
        assert contexts == [{"job": 7}, {"job": 8}]

    def test_blocks_can_be_nested(self, listening: Listening) -> None:
        with context(job=7, step="a"):
            with context(step="b", more=[1]):
                hire()
            hire()

        inner, outer = listening.wait_for(2)
        assert inner.context == {"job": 7, "step": "b", "more": [1]}
        assert outer.context == {"job": 7, "step": "a"}

    @pytest.mark.django_db(transaction=True, databases=["default", "second"])
    def test_each_database_gets_context(self, config: StreamConfig) -> None:
        other = replace(get_config("second"), durable_slot=False)
        with replication.connect(other.connection_parameters()) as sql:
            for step in setup_plan(other, sql):
                sql.execute(step.statement)
            log = WalReader(sql)
            with context(job=7):
                Keeper.objects.using("second").create(name="Bob")
                hire()
            with transaction.atomic(using="second"):
                Keeper.objects.using("second").create(name="Eve")

            assert log.transactions() == [[{"job": 7}, "Insert"], ["Insert"]]


class TestUnrecognizedStatements:
    """Functions and COPY need `attach`; procedures need a transaction."""

    @pytest.fixture(autouse=True)
    def routines(self, sql: psycopg.Connection[Any]) -> Iterator[None]:
        sql.execute(
            "CREATE FUNCTION hire(text) RETURNS void LANGUAGE sql"
            " AS 'INSERT INTO zoo_keeper (name) VALUES ($1)';"
            " CREATE PROCEDURE hire_and_commit() LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM hire(''Ada''); COMMIT; END';"
            " CREATE PROCEDURE hire_two() LANGUAGE sql"
            " AS 'SELECT hire(''Ada''); SELECT hire(''Bob'')'"
        )
        yield
        sql.execute(
            "DROP PROCEDURE hire_and_commit, hire_two; DROP FUNCTION hire(text)"
        )

    def test_function_has_attached_context(self, listening: Listening) -> None:
        with context(job=7), connection.cursor() as cursor:
            cursor.execute("SELECT hire('without')")
            with transaction.atomic():
                attach()
                cursor.execute("SELECT hire('with')")
                cursor.callproc("hire", ["with"])

        contexts = [event.context for event in listening.wait_for(3)]
        assert contexts == [None, {"job": 7}, {"job": 7}]

    def test_copy_has_attached_context(self, listening: Listening) -> None:
        with context(job=7), transaction.atomic(), connection.cursor() as cursor:
            attach()
            with cursor.copy("COPY zoo_keeper (name) FROM STDIN") as copy:
                copy.write_row(["Ada"])
                copy.write_row(["Bob"])

        contexts = [event.context for event in listening.wait_for(2)]
        assert contexts == [{"job": 7}] * 2

    def test_procedure_has_context_in_transaction(self, listening: Listening) -> None:
        with context(job=7), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("CALL hire_two()")
            cursor.execute("DO 'BEGIN PERFORM hire(''Eve''); END'")

        contexts = [event.context for event in listening.wait_for(3)]
        assert contexts == [{"job": 7}] * 3

    def test_procedure_can_commit_outside_transaction(
        self, listening: Listening
    ) -> None:
        with context(job=7), connection.cursor() as cursor:
            cursor.execute("CALL hire_and_commit()")

        assert listening.wait_for(1)[0].context is None

    def test_attach_fails_outside_transaction(self) -> None:
        with context(job=7), pytest.raises(TransactionManagementError, match="atomic"):
            attach()


class TestThreadsAndTasks:
    """Threads and tasks have the context of their Python context variables."""

    def test_threads_do_not_inherit_context(self, listening: Listening) -> None:
        with context(job=7):
            call_in_thread(hire)
            call_in_thread(copy_context().run, hire)

        contexts = [event.context for event in listening.wait_for(2)]
        assert contexts == [None, {"job": 7}]

    def test_contexts_of_threads_do_not_mix(self, listening: Listening) -> None:
        both = Barrier(2)

        def work(number: int) -> None:
            with context(job=number):
                for _ in range(10):
                    both.wait(TIMEOUT)
                    hire(str(number))
            connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, [1, 2]))

        for event in listening.wait_for(20):
            assert event.context == {"job": int(_name(event))}

    def test_tasks_have_separate_contexts(self, listening: Listening) -> None:
        async def work(number: int) -> None:
            with context(job=number):
                for _ in range(3):
                    await Keeper.objects.acreate(name=str(number))
                await asyncio.sleep(0)
                await sync_to_async(hire)(str(number))

        async def run_all() -> None:
            with context(by="all"):
                await asyncio.gather(*(work(number) for number in range(3)))
                assert current() == {"by": "all"}
            await sync_to_async(connections.close_all)()

        asyncio.run(run_all())

        for event in listening.wait_for(12):
            assert event.context == {"by": "all", "job": int(_name(event))}

    def test_exception_ends_block(self) -> None:
        with pytest.raises(ZeroDivisionError), context(job=7):
            1 / 0  # noqa: B018

        assert current() is None


class TestDecorator:
    """`@context(…)` sets the context for each call."""

    def test_context_decorates_functions(self) -> None:
        @context(job=7)
        def work(depth: int) -> list[Any]:
            return [current(), *(work(depth - 1) if depth else [])]

        assert work(1) == [{"job": 7}] * 2
        assert work.__name__ == "work"
        assert current() is None

    def test_context_decorates_coroutine_functions(self) -> None:
        @context(job=7)
        async def work() -> object:
            await asyncio.sleep(0)
            return current()

        async def run_all() -> list[object]:
            return [*await asyncio.gather(work(), work()), current()]

        assert asyncio.run(run_all()) == [{"job": 7}, {"job": 7}, None]

    def test_generators_are_rejected(self) -> None:
        def work() -> Iterator[int]:
            yield 1

        async def awork() -> AsyncIterator[int]:
            yield 1

        for function in (work, awork):
            with pytest.raises(TypeError, match="is a generator"):
                context(job=7)(function)


@pytest.mark.parametrize("value", [object(), {1}, float("nan"), {"a": float("inf")}])
def test_value_not_serializable_to_json_is_rejected_immediately(value: object) -> None:
    with pytest.raises(TypeError, match="The context must be serializable to JSON: "):
        context(wrong=value)


def test_later_changes_of_data_do_not_affect_context() -> None:
    data = {"a": [1]}
    with context(data=data):
        data["a"].append(2)
        seen = current()
        assert seen == {"data": {"a": [1]}}
        seen["data"] = None
        assert current() == {"data": {"a": [1]}}


def call_in_thread(function: Callable[..., object], *arguments: object) -> None:
    """Call the function in a thread."""

    def run() -> None:
        function(*arguments)
        connections.close_all()

    thread = Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def _name(event: Event) -> str:
    assert event.new_record is not None
    return str(event.new_record["name"])
