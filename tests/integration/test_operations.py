"""Publications and replica identities in migrations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import connection, connections
from django.db.migrations import Migration
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter

from walex_django.conf.stream import libpq_parameters
from walex_django.operations import (
    AlterPublication,
    CreatePublication,
    SetReplicaIdentity,
)
from walex_django.replication import locks
from walex_django.replication.errors import LockTimeout

pytestmark = pytest.mark.django_db(transaction=True)

Operation = CreatePublication | AlterPublication | SetReplicaIdentity


@pytest.fixture(autouse=True)
def _no_publication() -> Iterator[None]:
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP PUBLICATION IF EXISTS migrated")
        cursor.execute("ALTER TABLE zoo_animal REPLICA IDENTITY DEFAULT")


def test_a_publication_is_created_and_dropped() -> None:
    create = CreatePublication("migrated", ["zoo.Animal", "legacy.nobody_knows"])

    _forwards(create)
    assert _published() == ["legacy.nobody_knows", "public.zoo_animal"]
    assert _one("SELECT pubviaroot FROM pg_publication WHERE pubname = 'migrated'")

    _backwards(create)
    assert not _one("SELECT count(*) FROM pg_publication WHERE pubname = 'migrated'")


def test_partitions_may_be_published_under_their_own_names() -> None:
    _forwards(CreatePublication("migrated", ["zoo.Animal"], via_root=False))

    assert not _one("SELECT pubviaroot FROM pg_publication WHERE pubname = 'migrated'")


def test_tables_are_added_and_dropped() -> None:
    _forwards(CreatePublication("migrated", ["zoo.Animal"]))
    alter = AlterPublication(
        "migrated", add=["zoo.Keeper", "zoo.AuditLog"], drop=["zoo.Animal"]
    )

    _forwards(alter)
    assert _published() == ["legacy.audit_log", "public.zoo_keeper"]

    _backwards(alter)
    assert _published() == ["public.zoo_animal"]


def test_alter_publication_requires_tables() -> None:
    with pytest.raises(ValueError, match="needs tables to add or to drop"):
        AlterPublication("migrated")


@pytest.mark.parametrize(
    ("identity", "relreplident"),
    [("FULL", "f"), ("NOTHING", "n"), ("zoo_animal_pkey", "i")],
)
def test_replica_identity_is_set_and_restored(identity: str, relreplident: str) -> None:
    operation = SetReplicaIdentity("Animal", identity)
    query = "SELECT relreplident::text FROM pg_class WHERE relname = 'zoo_animal'"

    _forwards(operation)
    assert _one(query) == relreplident

    _backwards(operation)
    assert _one(query) == "d"


@pytest.mark.parametrize(
    ("operation", "held"),
    [
        (SetReplicaIdentity("Animal", "FULL"), "ACCESS SHARE"),
        (CreatePublication("migrated", ["zoo.Animal"]), "ACCESS EXCLUSIVE"),
    ],
)
def test_operation_gives_way_and_names_the_session_that_holds_a_lock(
    operation: Operation, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    monkeypatch.setattr(locks, "PAUSE", 0.1)
    parameters = libpq_parameters("default")
    with psycopg.connect(**parameters, application_name="till") as session:
        session.execute(f"LOCK TABLE zoo_animal IN {held} MODE".encode())
        pid = session.info.backend_pid

        with pytest.raises(LockTimeout, match=rf'held by process {pid} \("till"'):
            _forwards(operation)
    assert _one("SHOW lock_timeout") == "0"

    _forwards(operation)


@pytest.mark.parametrize(
    "operation",
    [
        CreatePublication("migrated", ["zoo.Animal"], via_root=False),
        AlterPublication("migrated", add=["zoo.Keeper"]),
        SetReplicaIdentity("Animal", previous="FULL"),
    ],
    ids=lambda operation: type(operation).__name__,
)
class TestInMigrations:
    def test_model_state_is_unchanged(self, operation: Operation) -> None:
        state = ProjectState.from_apps(apps)
        before = dict(state.models)
        operation.state_forwards("zoo", state)

        assert state.models == before

    def test_operation_is_serializable(self, operation: Operation) -> None:
        migration = type("Migration", (Migration,), {"operations": [operation]})
        written = MigrationWriter(migration("0001_it", "zoo")).as_string()

        found: dict[str, Any] = {}
        exec(compile(written, "0001_it.py", "exec"), found)  # noqa: S102
        (again,) = found["Migration"].operations
        assert {k: v for k, v in vars(again).items() if k != "_constructor_args"} == {
            k: v for k, v in vars(operation).items() if k != "_constructor_args"
        }

    def test_description_names_the_target(self, operation: Operation) -> None:
        target = operation.model if hasattr(operation, "model") else operation.name
        assert target in operation.formatted_description()
        assert operation.migration_name_fragment.isidentifier()

    def test_router_can_veto_the_operation(
        self, operation: Operation, settings: Any, sql: psycopg.Connection[Any]
    ) -> None:
        settings.DATABASE_ROUTERS = ["tests.integration.test_operations.Nowhere"]
        with connections["default"].schema_editor(collect_sql=True) as editor:
            state = ProjectState.from_apps(apps)
            operation.database_forwards("zoo", editor, state, state)

        assert not editor.collected_sql


class Nowhere:
    def allow_migrate(self, *args: Any, **hints: Any) -> bool:
        return False


def _forwards(operation: Operation) -> None:
    state = ProjectState.from_apps(apps)
    with connection.schema_editor() as editor:
        operation.database_forwards("zoo", editor, state, state)


def _backwards(operation: Operation) -> None:
    state = ProjectState.from_apps(apps)
    with connection.schema_editor() as editor:
        operation.database_backwards("zoo", editor, state, state)


def _published() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables"
            " WHERE pubname = 'migrated' ORDER BY 1"
        )
        return [table for (table,) in cursor.fetchall()]


def _one(query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        (value,) = cursor.fetchone() or (None,)
        return value
