"""Every change arrives, no matter which client made it."""

from __future__ import annotations

import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction

from example_project.postgres import wheel_programs
from tests.listening import Listening
from tests.zoo.models import Animal, Keeper
from walex_django import Change, EventType

pytestmark = pytest.mark.django_db(transaction=True)


def test_orm_changes_arrive_in_commit_order(listening: Listening) -> None:
    keeper = Keeper.objects.create(name="Ada")
    keeper.name = "Grace"
    keeper.save()
    keeper_id = keeper.pk
    keeper.delete()

    inserted, updated, deleted = listening.wait_for(3)
    assert [event.type for event in listening.events] == ["insert", "update", "delete"]
    assert listening.senders == [Keeper] * 3
    assert inserted.instance == Keeper(pk=keeper_id)
    assert inserted.new_record == {"id": keeper_id, "name": "Ada"}
    assert inserted.old_record is None
    assert updated.new_record == {"id": keeper_id, "name": "Grace"}
    assert deleted.new_record is None
    assert deleted.old_record == {"id": keeper_id}
    assert deleted.instance is deleted.old_instance
    assert deleted.instance == Keeper(pk=keeper_id)
    assert inserted.timestamp <= updated.timestamp <= deleted.timestamp
    assert inserted.lsn < updated.lsn < deleted.lsn


def test_changes_that_post_save_misses_arrive(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    ada, bob = Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
    Keeper.objects.filter(pk=ada.pk).update(name="Grace")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zoo_keeper SET name = 'Rob' WHERE id = %s", [bob.pk])
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('Eve')")
    sql.execute("DELETE FROM zoo_keeper WHERE name = 'Grace'")

    events = listening.wait_for(6)
    assert [(event.type, _name(event.instance)) for event in events[:5]] == [
        ("insert", "Ada"),
        ("insert", "Bob"),
        ("update", "Grace"),
        ("update", "Rob"),
        ("insert", "Eve"),
    ]
    assert events[5].type is EventType.DELETE


def test_changes_made_with_psql_arrive(
    listening: Listening, environment: dict[str, str], pytestconfig: pytest.Config
) -> None:
    subprocess.run(
        [
            _psql(pytestconfig.getoption("--postgres")),
            environment["ZOO_DATABASE_URL"],
            "--no-psqlrc",
            "--command=INSERT INTO zoo_keeper (name) VALUES ('Ada'), ('Bob')",
            "--command=UPDATE zoo_keeper SET name = 'Eve' WHERE name = 'Bob'",
        ],
        check=True,
        capture_output=True,
    )

    events = listening.wait_for(3)
    assert [_name(event.instance) for event in events] == ["Ada", "Bob", "Eve"]


def test_cascade_arrives_with_its_delete(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    animal = Animal.objects.create(name="Leo")
    animal.keepers.add(Keeper.objects.create(name="Ada"))
    listening.wait_for(3)

    animal.delete()

    through, gone = listening.wait_for(5)[3:]
    assert through.model is Animal.keepers.through
    assert gone.model is Animal
    assert through.xid == gone.xid


def test_event_id_is_commit_lsn_and_ordinal(listening: Listening) -> None:
    Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
    Keeper.objects.create(name="Eve")

    ada, bob, eve = listening.wait_for(3)
    assert (ada.lsn, ada.xid, ada.timestamp) == (bob.lsn, bob.xid, bob.timestamp)
    assert [event.ordinal for event in (ada, bob, eve)] == [1, 2, 1]
    assert bob.id == f"{bob.lsn}:2"
    assert len({ada.id, bob.id, eve.id}) == 3


def test_rolled_back_changes_never_arrive(listening: Listening) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="kept")
        with transaction.atomic():
            Keeper.objects.create(name="undone")
            transaction.set_rollback(True)
    with transaction.atomic():
        Keeper.objects.create(name="undone too")
        transaction.set_rollback(True)
    Keeper.objects.create(name="last")

    events = listening.wait_for(2)
    assert [_name(event.instance) for event in events] == ["kept", "last"]


def test_transactions_arrive_whole_in_commit_order(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("BEGIN")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('early, committed late')")
    Keeper.objects.create(name="late, committed early")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('last')")
    sql.execute("COMMIT")

    events = listening.wait_for(3)
    assert [_name(event.instance) for event in events] == [
        "late, committed early",
        "early, committed late",
        "last",
    ]


def test_changes_are_known_with_replica_identity_full(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY FULL")
    try:
        leo = Animal.objects.create(name="Leo", weight="190.5")
        Animal.objects.filter(pk=leo.pk).update(weight="191.0")
        Animal.objects.filter(pk=leo.pk).update(weight="191.0")
        leo.delete()

        _, gained, same, gone = listening.wait_for(4)
    finally:
        sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY DEFAULT")
    assert gained.changes == {"weight": Change(Decimal("190.500"), Decimal("191.000"))}
    assert gained.old_record is not None
    assert gained.old_record["name"] == "Leo"
    assert isinstance(gained.old_instance, Animal)
    assert gained.old_instance.weight == Decimal("190.500")
    assert same.changes == {}
    assert isinstance(gone.instance, Animal)
    assert gone.instance.name == "Leo"


def test_changes_are_unknown_without_old_row(
    listening: Listening,
) -> None:
    keeper = Keeper.objects.create(name="Ada")
    Keeper.objects.update(name="Grace")
    Keeper.objects.update(id=keeper.pk + 1000)

    _, renamed, moved = listening.wait_for(3)
    assert renamed.changes is None
    assert renamed.old_record is None
    assert renamed.old_instance is None
    assert moved.changes is None
    assert moved.old_record == {"id": keeper.pk}
    assert moved.old_instance is not None
    assert moved.old_instance.pk == keeper.pk
    assert moved.old_instance.get_deferred_fields() == {"name"}
    assert moved.instance is not None
    assert moved.instance.pk == keeper.pk + 1000


def test_truncate_is_one_event_per_table(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("TRUNCATE zoo_keeper, zoo_visit RESTART IDENTITY CASCADE")
    sql.execute("TRUNCATE zoo_visit")

    events = listening.wait_for(4)
    first = {event.name: event for event in events[:3]}
    assert set(first) == {"zoo_keeper", "zoo_visit", "zoo_animal_keepers"}
    assert {event.type for event in events} == {EventType.TRUNCATE}
    assert all(event.cascade and event.restart_identity for event in events[:3])
    assert sorted(event.ordinal for event in events[:3]) == [1, 2, 3]
    last = events[3]
    assert not last.cascade
    assert not last.restart_identity
    assert (last.instance, last.new_record, last.old_record) == (None, None, None)


def test_two_phase_transactions_arrive_at_commit(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    ((allowed,),) = sql.execute("SHOW max_prepared_transactions")
    if allowed == "0":
        pytest.skip("the server has max_prepared_transactions = 0")
    sql.execute("BEGIN")
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('prepared')")
    sql.execute("PREPARE TRANSACTION 'zoo'")
    Keeper.objects.create(name="meanwhile")
    sql.execute("COMMIT PREPARED 'zoo'")

    events = listening.wait_for(2)
    assert [_name(event.instance) for event in events] == ["meanwhile", "prepared"]


def _name(instance: Any) -> Any:
    return instance.name


def _psql(choice: str) -> str:
    if Path(choice, "psql").exists():
        return str(Path(choice, "psql"))
    return shutil.which("psql") or str(wheel_programs() / "psql")
