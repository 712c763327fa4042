"""
Operations of migrations, for publications and what tables tell of their old rows.

Source: PostgreSQL, "CREATE PUBLICATION", "ALTER PUBLICATION" and "ALTER TABLE".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation, OperationCategory
from django.db.migrations.state import ProjectState, StateApps


class _OnPostgres(Operation):
    """An operation that changes nothing of the models."""

    category = OperationCategory.SQL
    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Leave the models as they are."""

    def _applies(
        self, app_label: str, editor: BaseDatabaseSchemaEditor, **hints: Any
    ) -> bool:
        connection = editor.connection
        return connection.vendor == "postgresql" and router.allow_migrate(
            connection.alias, app_label, **hints
        )


class _OnPublication(_OnPostgres):
    def _tables(
        self, names: Sequence[str], apps: StateApps, editor: BaseDatabaseSchemaEditor
    ) -> str:
        return ", ".join(_table(name, apps, editor) for name in names)


class CreatePublication(_OnPublication):
    """
    Create a publication.

    Args:
        name: of the publication.
        tables: models (``"shop.Order"``) or tables (``"schema.table"``).
        via_root: publish the rows of partitions as those of the partitioned table.

    ``walex_setup`` adds what SUBSCRIPTIONS name besides.
    """

    category = OperationCategory.ADDITION

    def __init__(
        self, name: str, tables: Sequence[str], *, via_root: bool = True
    ) -> None:
        self.name, self.tables, self.via_root = name, tables, via_root

    def database_forwards(  # noqa: D102
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if self._applies(app_label, schema_editor):
            tables = self._tables(self.tables, to_state.apps, schema_editor)
            schema_editor.execute(
                f"CREATE PUBLICATION {schema_editor.quote_name(self.name)}"
                f"{f' FOR TABLE {tables}' if tables else ''}"
                f" WITH (publish_via_partition_root = {str(self.via_root).lower()})"
            )

    def database_backwards(  # noqa: D102
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if self._applies(app_label, schema_editor):
            schema_editor.execute(
                f"DROP PUBLICATION {schema_editor.quote_name(self.name)}"
            )

    def describe(self) -> str:  # noqa: D102
        return f"Create the publication {self.name}"

    @property
    def migration_name_fragment(self) -> str:  # noqa: D102
        return f"publication_{self.name}".lower()


class AlterPublication(_OnPublication):
    """
    Add tables to a publication, or take them out of it.

    Args:
        name: of the publication.
        add: models (``"shop.Order"``) or tables (``"schema.table"``).
        drop: those to take out.
    """

    category = OperationCategory.ALTERATION

    def __init__(
        self, name: str, *, add: Sequence[str] = (), drop: Sequence[str] = ()
    ) -> None:
        if not (add or drop):
            raise ValueError("AlterPublication needs tables to add or to drop.")
        self.name, self.add, self.drop = name, add, drop

    def database_forwards(  # noqa: D102
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        self._alter(app_label, schema_editor, to_state, self.add, self.drop)

    def database_backwards(  # noqa: D102
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        self._alter(app_label, schema_editor, to_state, self.drop, self.add)

    def describe(self) -> str:  # noqa: D102
        return f"Change the tables of the publication {self.name}"

    @property
    def migration_name_fragment(self) -> str:  # noqa: D102
        return f"alter_publication_{self.name}".lower()

    def _alter(
        self,
        app_label: str,
        editor: BaseDatabaseSchemaEditor,
        state: ProjectState,
        add: Sequence[str],
        drop: Sequence[str],
    ) -> None:
        if not self._applies(app_label, editor):
            return
        publication = editor.quote_name(self.name)
        for verb, names in (("ADD", add), ("DROP", drop)):
            if names:
                tables = self._tables(names, state.apps, editor)
                editor.execute(f"ALTER PUBLICATION {publication} {verb} TABLE {tables}")


class SetReplicaIdentity(_OnPostgres):
    """
    Set what a table tells of its old rows.

    Args:
        model: its name, in the app of the migration.
        identity: ``"FULL"``, ``"DEFAULT"``, ``"NOTHING"``, or the name of a unique
            index.
        previous: what it was before, for the way back.
    """

    category = OperationCategory.ALTERATION

    def __init__(
        self, model: str, identity: str = "FULL", *, previous: str = "DEFAULT"
    ) -> None:
        self.model, self.identity, self.previous = model, identity, previous

    def database_forwards(  # noqa: D102
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        self._set(app_label, schema_editor, to_state, self.identity)

    def database_backwards(  # noqa: D102
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        self._set(app_label, schema_editor, to_state, self.previous)

    def describe(self) -> str:  # noqa: D102
        return f"Set the replica identity of {self.model} to {self.identity}"

    def references_model(self, name: str, app_label: str) -> bool:  # noqa: D102
        return name.lower() == self.model.lower()

    @property
    def migration_name_fragment(self) -> str:  # noqa: D102
        return f"{self.model}_replica_identity".lower()

    def _set(
        self,
        app_label: str,
        editor: BaseDatabaseSchemaEditor,
        state: ProjectState,
        identity: str,
    ) -> None:
        if not self._applies(app_label, editor, model_name=self.model.lower()):
            return
        model = state.apps.get_model(app_label, self.model)
        table = editor.quote_name(model._meta.db_table)
        if identity.upper() not in {"FULL", "DEFAULT", "NOTHING"}:
            identity = f"USING INDEX {editor.quote_name(identity)}"
        editor.execute(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")


def _table(name: str, apps: StateApps, editor: BaseDatabaseSchemaEditor) -> str:
    """Return the quoted name of a table, or of a model's."""
    owner, _, rest = name.partition(".")
    if owner in {config.label for config in apps.get_app_configs()}:
        return str(editor.quote_name(apps.get_model(owner, rest)._meta.db_table))
    return ".".join(str(editor.quote_name(part)) for part in (owner, rest) if part)
