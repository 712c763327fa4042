"""In each transaction that writes, one message tells of its context."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import DataError, IntegrityError, connection, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from tests.listening import Listening
from tests.zoo.models import Keeper
from walex_django.context import context, current
from walex_django.context.writer import install

from .log import Log

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def log(sql: psycopg.Connection[Any]) -> Log:
    return Log(sql)


def hire(name: str = "Ada") -> None:
    Keeper.objects.create(name=name)


def test_once_in_a_transaction(log: Log) -> None:
    with context(job=7):
        with transaction.atomic():
            hire()
            hire()
            with transaction.atomic():
                hire()
        with transaction.atomic():
            hire()
    hire()
    with transaction.atomic():
        hire()

    assert log.told() == [
        [{"job": 7}, "Insert", "Insert", "Insert"],
        [{"job": 7}, "Insert"],
        ["Insert"],
        ["Insert"],
    ]


def test_a_transaction_of_its_own_outside_of_one(log: Log) -> None:
    with context(job=7):
        hire()
        Keeper.objects.update(name="Bob")

    assert not connection.in_atomic_block
    assert connection.get_autocommit()
    assert log.told() == [[{"job": 7}, "Insert"], [{"job": 7}, "Update"]]


def test_what_only_reads_writes_nothing(log: Log) -> None:
    hire()
    log.messages()
    with context(job=7):
        list(Keeper.objects.all())
        with transaction.atomic():
            Keeper.objects.select_for_update().get()
            with connection.cursor() as cursor:
                cursor.execute(
                    "WITH one AS (SELECT 1) SELECT * FROM zoo_keeper FOR UPDATE"
                )

    assert log.messages() == []


def test_again_when_the_context_has_changed(log: Log) -> None:
    with transaction.atomic():
        with context(job=7):
            hire()
        with context(job=7):
            hire()
        with context(job=8):
            hire()

    assert log.told() == [[{"job": 7}, "Insert", "Insert", {"job": 8}, "Insert"]]


def test_none_again_after_the_block(log: Log, listening: Listening) -> None:
    with transaction.atomic():
        hire()
        with context(job=7):
            hire()
        hire()
        hire()

    assert log.told() == [
        ["Insert", {"job": 7}, "Insert", {}, "Insert", "Insert"],
    ]
    told = [event.context for event in listening.wait_for(4)]
    assert [each or None for each in told] == [None, {"job": 7}, None, None]


def test_again_after_a_rollback_to_a_savepoint(listening: Listening) -> None:
    with transaction.atomic(), context(job=7):
        for _ in range(2):
            with transaction.atomic():
                hire("undone")
                transaction.set_rollback(True)
            hire()

    contexts = [event.context for event in listening.wait_for(2)]
    assert contexts == [{"job": 7}] * 2


def test_the_outer_context_holds_after_a_rollback_of_the_inner(
    listening: Listening,
) -> None:
    with transaction.atomic():
        with context(job=7):
            hire("a")
            with transaction.atomic():
                with context(step="b"):
                    hire("undone")
                transaction.set_rollback(True)
            hire("b")
        hire("c")

    contexts = [event.context or None for event in listening.wait_for(3)]
    assert contexts == [{"job": 7}, {"job": 7}, None]


def test_nobody_is_named_for_what_follows_a_rollback(listening: Listening) -> None:
    with transaction.atomic():
        with context(job=7):
            hire("a")
        with transaction.atomic():
            hire("undone")
            transaction.set_rollback(True)
        hire("b")
    hire("c")

    contexts = [event.context or None for event in listening.wait_for(3)]
    assert contexts == [{"job": 7}, None, None]


@pytest.mark.parametrize("by_hand", [True, False])
def test_savepoints_by_hand_count_too(listening: Listening, by_hand: bool) -> None:
    with transaction.atomic(), context(job=7), connection.cursor() as cursor:
        if by_hand:
            cursor.execute("SAVEPOINT mine")
        else:
            savepoint = connection.savepoint()
        hire("undone")
        if by_hand:
            cursor.execute("ROLLBACK TO SAVEPOINT mine")
        else:
            assert savepoint
            connection.savepoint_rollback(savepoint)
        hire("kept")

    assert listening.wait_for(1)[0].context == {"job": 7}


def test_a_transaction_that_was_rolled_back_is_forgotten(log: Log) -> None:
    with context(job=7):
        with transaction.atomic():
            hire()
            transaction.set_rollback(True)
        with transaction.atomic():
            hire()

    assert log.told() == [[{"job": 7}, "Insert"]]


def test_a_statement_that_fails_leaves_no_transaction_behind(log: Log) -> None:
    with context(job=7):
        hire()
        (ada,) = Keeper.objects.all()
        with pytest.raises(Exception, match="zoo_keeper_pkey") as caught:
            Keeper.objects.bulk_create([Keeper(pk=ada.pk, name="Bob")])
        hire()

    assert caught.type.__module__ == "django.db.utils"
    assert log.told() == [[{"job": 7}, "Insert"], [{"job": 7}, "Insert"]]


def test_a_constraint_that_is_checked_at_the_end_fails_as_ever(log: Log) -> None:
    with (
        context(job=7),
        connection.cursor() as cursor,
        pytest.raises(IntegrityError, match="zoo_animal_keepers"),
    ):
        cursor.execute(
            "INSERT INTO zoo_animal_keepers (animal_id, keeper_id) VALUES (0, 0)"
        )

    assert log.told() == []


def test_a_broken_transaction_is_refused_as_ever() -> None:
    with context(job=7), transaction.atomic(), connection.cursor() as cursor:
        with pytest.raises(DataError), transaction.atomic(savepoint=False):
            cursor.execute("SELECT 1 / 0")
        with pytest.raises(transaction.TransactionManagementError, match="atomic"):
            hire()


def test_without_autocommit_each_statement_has_it(listening: Listening) -> None:
    transaction.set_autocommit(False)
    try:
        with context(job=7):
            for _ in range(2):
                list(Keeper.objects.all())
                hire()
                transaction.commit()
            for _ in range(2):
                list(Keeper.objects.all())
                with transaction.atomic():
                    hire()
                transaction.commit()
            hire()
        hire("nobody")
        transaction.commit()
        with context(job=8):
            hire("undone")
            transaction.rollback()
        hire("nobody")
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)

    contexts = [event.context or None for event in listening.wait_for(7)]
    assert contexts == [{"job": 7}] * 5 + [None] * 2


def test_functions_on_commit_are_called_as_ever(log: Log) -> None:
    called = []

    def after() -> None:
        called.append(current())
        hire()

    with context(job=7):
        with transaction.atomic():
            with TestCase.captureOnCommitCallbacks() as callbacks:
                hire()
                transaction.on_commit(after)
                hire()
            assert callbacks == [after]
        assert called == [{"job": 7}]

    assert log.told() == [
        [{"job": 7}, "Insert", "Insert"],
        [{"job": 7}, "Insert"],
    ]


def test_it_is_no_query_of_the_application() -> None:
    with context(job=7), CaptureQueriesContext(connection) as queries:
        hire()
        with transaction.atomic():
            hire()

    assert [q["sql"].split()[0] for q in queries.captured_queries] == [
        *("INSERT", "BEGIN", "INSERT", "COMMIT")
    ]


def test_wrappers_of_others_stay_as_they_are() -> None:
    seen = []

    def look(execute: Any, sql: Any, *rest: Any) -> Any:
        seen.append(sql.split()[0])
        return execute(sql, *rest)

    connection.close()
    del connection.execute_wrappers[:]
    with context(job=7), connection.execute_wrapper(look):
        hire()

    assert seen == ["INSERT"]
    with context(job=7):
        hire()
    assert seen == ["INSERT"]
    assert len(connection.execute_wrappers) == 1


def test_connections_that_are_open_are_prepared_too(log: Log) -> None:
    del connection.execute_wrappers[:]
    install()
    with context(job=7):
        hire()

    assert log.told() == [[{"job": 7}, "Insert"]]
