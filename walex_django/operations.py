"""
Migration operations for publications and replica identities.

Source: PostgreSQL, "CREATE PUBLICATION", "ALTER PUBLICATION" and "ALTER TABLE".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import OperationalError, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation, OperationCategory
from django.db.migrations.state import ProjectState, StateApps
from psycopg.errors import LockNotAvailable

from walex_django.replication import locks
from walex_django.replication.locks import Blocker


class Change(NamedTuple):
    """
    A statement of an operation.

    Attributes:
        statement: The SQL.
        tables: The quoted names of the tables that it locks.
        exclusive: Whether its locks exclude readers and writers.
    """

    statement: str
    tables: Sequence[str]
    exclusive: bool = False


class _OnPostgres(Operation):
    """An operation on PostgreSQL that does not change the models' state."""

    category = OperationCategory.SQL
    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Leave the models' state unchanged."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if self._applies(app_label, schema_editor):
            for change in self._forwards(app_label, schema_editor, to_state.apps):
                _execute(schema_editor, change)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if self._applies(app_label, schema_editor):
            for change in self._backwards(app_label, schema_editor, to_state.apps):
                _execute(schema_editor, change)

    def _applies(self, app_label: str, editor: BaseDatabaseSchemaEditor) -> bool:
        connection = editor.connection
        return connection.vendor == "postgresql" and router.allow_migrate(
            connection.alias, app_label, **self._hints()
        )

    def _hints(self) -> dict[str, Any]:
        """Return the hints for the database routers."""
        return {}

    def _forwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        """Return the SQL that applies the operation."""
        raise NotImplementedError

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        """Return the SQL that reverses the operation."""
        raise NotImplementedError


class CreatePublication(_OnPostgres):
    """
    Create a publication.

    ``walex_setup`` adds the tables that ``SUBSCRIPTIONS`` name and ``tables`` do not.

    Args:
        name: Name of the publication.
        tables: Models (``"shop.Order"``) or tables (``"schema.table"``).
        via_root: Whether to publish the rows of partitions as rows of the partitioned
            table.
    """

    category = OperationCategory.ADDITION

    def __init__(
        self, name: str, tables: Sequence[str], *, via_root: bool = True
    ) -> None:
        self.name, self.tables, self.via_root = name, tables, via_root

    def _forwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        tables = _tables(self.tables, apps, editor)
        listed = f" FOR TABLE {', '.join(tables)}" if tables else ""
        yield Change(
            f"CREATE PUBLICATION {editor.quote_name(self.name)}{listed}"
            f" WITH (publish_via_partition_root = {str(self.via_root).lower()})",
            tables,
        )

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        yield Change(f"DROP PUBLICATION {editor.quote_name(self.name)}", [])

    def describe(self) -> str:  # noqa: D102
        return f"Create the publication {self.name}"

    @property
    def migration_name_fragment(self) -> str:  # noqa: D102
        return f"publication_{self.name}".lower()


class AlterPublication(_OnPostgres):
    """
    Add tables to a publication, or remove them from it.

    Args:
        name: Name of the publication.
        add: Models (``"shop.Order"``) or tables (``"schema.table"``) to add.
        drop: Models or tables to remove.

    Raises:
        ValueError: If no tables are given.
    """

    category = OperationCategory.ALTERATION

    def __init__(
        self, name: str, *, add: Sequence[str] = (), drop: Sequence[str] = ()
    ) -> None:
        if not (add or drop):
            raise ValueError("AlterPublication needs tables to add or to drop.")
        self.name, self.add, self.drop = name, add, drop

    def _forwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        return self._alter(editor, apps, self.add, self.drop)

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        return self._alter(editor, apps, self.drop, self.add)

    def describe(self) -> str:  # noqa: D102
        return f"Change the tables of the publication {self.name}"

    @property
    def migration_name_fragment(self) -> str:  # noqa: D102
        return f"alter_publication_{self.name}".lower()

    def _alter(
        self,
        editor: BaseDatabaseSchemaEditor,
        apps: StateApps,
        add: Sequence[str],
        drop: Sequence[str],
    ) -> Iterator[Change]:
        publication = editor.quote_name(self.name)
        for verb, names in (("ADD", add), ("DROP", drop)):
            if names:
                tables = _tables(names, apps, editor)
                statement = f"ALTER PUBLICATION {publication} {verb} TABLE"
                yield Change(f"{statement} {', '.join(tables)}", tables)


class SetReplicaIdentity(_OnPostgres):
    """
    Set the replica identity of a model's table.

    Args:
        model: Name of the model, which must be in the migration's app.
        identity: ``"FULL"``, ``"DEFAULT"``, ``"NOTHING"``, or the name of a unique
            index.
        previous: The replica identity to set when the migration is reversed.
    """

    category = OperationCategory.ALTERATION

    def __init__(
        self, model: str, identity: str = "FULL", *, previous: str = "DEFAULT"
    ) -> None:
        self.model, self.identity, self.previous = model, identity, previous

    def _forwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        yield self._set(app_label, editor, apps, self.identity)

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[Change]:
        yield self._set(app_label, editor, apps, self.previous)

    def describe(self) -> str:  # noqa: D102
        return f"Set the replica identity of {self.model} to {self.identity}"

    def references_model(self, name: str, app_label: str) -> bool:  # noqa: D102
        return name.lower() == self.model.lower()

    @property
    def migration_name_fragment(self) -> str:  # noqa: D102
        return f"{self.model}_replica_identity".lower()

    def _hints(self) -> dict[str, Any]:
        return {"model_name": self.model.lower()}

    def _set(
        self,
        app_label: str,
        editor: BaseDatabaseSchemaEditor,
        apps: StateApps,
        identity: str,
    ) -> Change:
        model = apps.get_model(app_label, self.model)
        table = editor.quote_name(model._meta.db_table)
        if identity.upper() not in {"FULL", "DEFAULT", "NOTHING"}:
            identity = f"USING INDEX {editor.quote_name(identity)}"
        statement = f"ALTER TABLE {table} REPLICA IDENTITY {identity}"
        return Change(statement, [table], exclusive=True)


def _execute(editor: BaseDatabaseSchemaEditor, change: Change) -> None:
    """
    Run a statement with a few short attempts to get its locks.

    Raises:
        LockTimeout: Another session held a conflicting lock during all attempts.
    """
    if editor.collect_sql:
        editor.execute(change.statement)
        return
    connection = editor.connection
    for attempt in range(1, locks.ATTEMPTS + 1):
        try:
            with (
                transaction.atomic(using=connection.alias),
                _short_lock_timeout(connection),
            ):
                editor.execute(change.statement)
            return
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            if attempt == locks.ATTEMPTS:
                raise locks.lock_timeout(
                    f"run {change.statement}", _holders(connection, change)
                ) from error
        time.sleep(locks.PAUSE)


@contextmanager
def _short_lock_timeout(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Limit the wait for locks in a transaction, unless the role already does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout')")
        (previous,) = cursor.fetchone()
        limit = f"{locks.LOCK_TIMEOUT * 1000:.0f}ms" if previous == "0" else previous
        cursor.execute(_SET_LOCK_TIMEOUT, [limit])
        yield
        # The rest of the migration runs in the same transaction.
        cursor.execute(_SET_LOCK_TIMEOUT, [previous])


_SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"


def _holders(connection: BaseDatabaseWrapper, change: Change) -> list[Blocker]:
    with connection.cursor() as cursor:
        cursor.execute(locks.HOLDERS, [list(change.tables), change.exclusive])
        return [Blocker(*row) for row in cursor.fetchall()]


def _tables(
    names: Sequence[str], apps: StateApps, editor: BaseDatabaseSchemaEditor
) -> list[str]:
    return [_table(name, apps, editor) for name in names]


def _table(name: str, apps: StateApps, editor: BaseDatabaseSchemaEditor) -> str:
    """Return the quoted name of a table, or of a model's table."""
    owner, _, rest = name.partition(".")
    if owner in {config.label for config in apps.get_app_configs()}:
        return str(editor.quote_name(apps.get_model(owner, rest)._meta.db_table))
    return ".".join(str(editor.quote_name(part)) for part in (owner, rest) if part)
