"""Each transaction that writes gets one message with its context."""

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

from .wal import WalReader

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def log(sql: psycopg.Connection[Any]) -> WalReader:
    return WalReader(sql)


def hire(name: str = "Ada") -> None:
    Keeper.objects.create(name=name)


def test_context_is_written_once_per_transaction(log: WalReader) -> None:
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

    assert log.transactions() == [
        [{"job": 7}, "Insert", "Insert", "Insert"],
        [{"job": 7}, "Insert"],
        ["Insert"],
        ["Insert"],
    ]


def test_write_outside_transaction_gets_its_own_transaction(log: WalReader) -> None:
    with context(job=7):
        hire()
        Keeper.objects.update(name="Bob")

    assert not connection.in_atomic_block
    assert connection.get_autocommit()
    assert log.transactions() == [[{"job": 7}, "Insert"], [{"job": 7}, "Update"]]


def test_reading_writes_no_context(log: WalReader) -> None:
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


def test_changed_context_is_written_again(log: WalReader) -> None:
    with transaction.atomic():
        with context(job=7):
            hire()
        with context(job=7):
            hire()
        with context(job=8):
            hire()

    assert log.transactions() == [
        [{"job": 7}, "Insert", "Insert", {"job": 8}, "Insert"]
    ]


def test_context_is_cleared_after_block(log: WalReader, listening: Listening) -> None:
    with transaction.atomic():
        hire()
        with context(job=7):
            hire()
        hire()
        hire()

    assert log.transactions() == [
        ["Insert", {"job": 7}, "Insert", {}, "Insert", "Insert"],
    ]
    contexts = [event.context for event in listening.wait_for(4)]
    assert [each or None for each in contexts] == [None, {"job": 7}, None, None]


def test_context_is_written_again_after_rollback_to_savepoint(
    listening: Listening,
) -> None:
    with transaction.atomic(), context(job=7):
        for _ in range(2):
            with transaction.atomic():
                hire("undone")
                transaction.set_rollback(True)
            hire()

    contexts = [event.context for event in listening.wait_for(2)]
    assert contexts == [{"job": 7}] * 2


def test_outer_context_applies_after_rollback_of_inner(
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


def test_changes_after_rollback_have_no_context_outside_block(
    listening: Listening,
) -> None:
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
def test_manual_savepoints_are_recognized(listening: Listening, by_hand: bool) -> None:
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


def test_context_is_written_again_after_rolled_back_transaction(log: WalReader) -> None:
    with context(job=7):
        with transaction.atomic():
            hire()
            transaction.set_rollback(True)
        with transaction.atomic():
            hire()

    assert log.transactions() == [[{"job": 7}, "Insert"]]


def test_failing_statement_leaves_no_transaction_behind(log: WalReader) -> None:
    with context(job=7):
        hire()
        (ada,) = Keeper.objects.all()
        with pytest.raises(Exception, match="zoo_keeper_pkey") as caught:
            Keeper.objects.bulk_create([Keeper(pk=ada.pk, name="Bob")])
        hire()

    assert caught.type.__module__ == "django.db.utils"
    assert log.transactions() == [[{"job": 7}, "Insert"], [{"job": 7}, "Insert"]]


def test_deferred_constraint_fails_as_usual(log: WalReader) -> None:
    with (
        context(job=7),
        connection.cursor() as cursor,
        pytest.raises(IntegrityError, match="zoo_animal_keepers"),
    ):
        cursor.execute(
            "INSERT INTO zoo_animal_keepers (animal_id, keeper_id) VALUES (0, 0)"
        )

    assert log.transactions() == []


def test_broken_transaction_is_refused_as_usual() -> None:
    with context(job=7), transaction.atomic(), connection.cursor() as cursor:
        with pytest.raises(DataError), transaction.atomic(savepoint=False):
            cursor.execute("SELECT 1 / 0")
        with pytest.raises(transaction.TransactionManagementError, match="atomic"):
            hire()


def test_changes_without_autocommit_have_context(listening: Listening) -> None:
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


def test_on_commit_functions_are_called_as_usual(log: WalReader) -> None:
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

    assert log.transactions() == [
        [{"job": 7}, "Insert", "Insert"],
        [{"job": 7}, "Insert"],
    ]


def test_context_is_not_a_captured_query() -> None:
    with context(job=7), CaptureQueriesContext(connection) as queries:
        hire()
        with transaction.atomic():
            hire()

    assert [q["sql"].split()[0] for q in queries.captured_queries] == [
        *("INSERT", "BEGIN", "INSERT", "COMMIT")
    ]


def test_other_execute_wrappers_are_kept() -> None:
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


def test_install_prepares_open_connections(log: WalReader) -> None:
    del connection.execute_wrappers[:]
    install()
    with context(job=7):
        hire()

    assert log.transactions() == [[{"job": 7}, "Insert"]]
