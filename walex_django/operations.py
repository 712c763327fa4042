"""
Migration operations for publications and replica identities.

Source: PostgreSQL, "CREATE PUBLICATION", "ALTER PUBLICATION" and "ALTER TABLE".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation, OperationCategory
from django.db.migrations.state import ProjectState, StateApps


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
            for statement in self._forwards(app_label, schema_editor, to_state.apps):
                schema_editor.execute(statement)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if self._applies(app_label, schema_editor):
            for statement in self._backwards(app_label, schema_editor, to_state.apps):
                schema_editor.execute(statement)

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
    ) -> Iterator[str]:
        """Return the SQL that applies the operation."""
        raise NotImplementedError

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[str]:
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
    ) -> Iterator[str]:
        tables = _table_list(self.tables, apps, editor)
        yield (
            f"CREATE PUBLICATION {editor.quote_name(self.name)}"
            f"{f' FOR TABLE {tables}' if tables else ''}"
            f" WITH (publish_via_partition_root = {str(self.via_root).lower()})"
        )

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[str]:
        yield f"DROP PUBLICATION {editor.quote_name(self.name)}"

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
    ) -> Iterator[str]:
        return self._alter(editor, apps, self.add, self.drop)

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[str]:
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
    ) -> Iterator[str]:
        publication = editor.quote_name(self.name)
        for verb, names in (("ADD", add), ("DROP", drop)):
            if names:
                tables = _table_list(names, apps, editor)
                yield f"ALTER PUBLICATION {publication} {verb} TABLE {tables}"


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
    ) -> Iterator[str]:
        yield self._set(app_label, editor, apps, self.identity)

    def _backwards(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, apps: StateApps
    ) -> Iterator[str]:
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
    ) -> str:
        model = apps.get_model(app_label, self.model)
        table = editor.quote_name(model._meta.db_table)
        if identity.upper() not in {"FULL", "DEFAULT", "NOTHING"}:
            identity = f"USING INDEX {editor.quote_name(identity)}"
        return f"ALTER TABLE {table} REPLICA IDENTITY {identity}"


def _table_list(
    names: Sequence[str], apps: StateApps, editor: BaseDatabaseSchemaEditor
) -> str:
    return ", ".join(_table(name, apps, editor) for name in names)


def _table(name: str, apps: StateApps, editor: BaseDatabaseSchemaEditor) -> str:
    """Return the quoted name of a table, or of a model's table."""
    owner, _, rest = name.partition(".")
    if owner in {config.label for config in apps.get_app_configs()}:
        return str(editor.quote_name(apps.get_model(owner, rest)._meta.db_table))
    return ".".join(str(editor.quote_name(part)) for part in (owner, rest) if part)
