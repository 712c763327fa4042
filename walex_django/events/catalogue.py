"""Look up tables in the system catalog and match them with models."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model

from walex_django import log
from walex_django.replication.publications import TableName

logger = log.logger(__name__)


def query(
    alias: str, statement: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """
    Query the database with the ORM's connection.

    If the connection was lost while idle, the query is retried once.

    Args:
        alias: The database alias.
        statement: The SQL, with a placeholder for each parameter.
        parameters: The values of the parameters.

    Raises:
        django.db.Error: The query failed.
    """
    wrapper = connections[alias]
    try:
        return _fetch_all(wrapper, statement, parameters)
    except (OperationalError, InterfaceError):
        if wrapper.in_atomic_block:
            raise
        wrapper.close()
        return _fetch_all(wrapper, statement, parameters)


def _fetch_all(
    wrapper: BaseDatabaseWrapper, statement: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    with wrapper.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def concrete_models() -> list[type[Model]]:
    """
    Return all installed models that have their own table.

    This includes the automatic models of many-to-many fields, but neither proxies nor
    swapped models. If two models share a table, the managed one comes last.
    """
    models = apps.get_models(include_auto_created=True)
    concrete = [model for model in models if not model._meta.proxy]
    return sorted(concrete, key=lambda model: model._meta.managed)


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    The models and parent tables of a table.

    Attributes:
        model: The table's own model, else that of the nearest table that it is a
            partition of or inherits from, or `None`.
        names: The names of the table and of all its parents.
        models: The models of all these tables.
        exists: Whether the table currently exists.
        may_be_partitioned: Whether the table is partitioned, or no longer exists.
    """

    model: type[Model] | None
    names: frozenset[TableName]
    models: frozenset[type[Model]]
    exists: bool
    may_be_partitioned: bool = True


class ModelTables:
    """
    Matches the tables of one database with the models of the installed apps.

    Args:
        alias: The database alias. The database's search path determines the schema of a
            ``db_table`` that doesn't name one explicitly, as in ``'"crm"."person"'``.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._by_oid: dict[int, type[Model]] = {}
        self._by_name: dict[TableName, type[Model]] = {}
        self._names: dict[int, TableName] = {}
        self._absent = concrete_models()
        self._warned: set[tuple[type[Model], str]] = set()
        # From the last query: the snapshot's xmax and the transactions in progress.
        self._snapshot: tuple[int, set[int]] | None = None

    def items(self) -> Iterable[tuple[TableName, type[Model]]]:
        """Return the existing tables with their models."""
        self._refresh()
        return self._by_name.items()

    def await_commit(self, xid: int) -> None:
        """
        Wait until a transaction's changes are visible to queries.

        A COMMIT reaches the stream shortly before other sessions see its changes.

        Args:
            xid: The 32-bit transaction ID.
        """
        deadline = time.monotonic() + _VISIBILITY_TIMEOUT
        while not self._is_visible(xid) and time.monotonic() < deadline:
            ((xmax, running),) = query(self.alias, _SNAPSHOT, [])
            self._snapshot = int(xmax), {int(other) % _XIDS for other in running}
            if not self._is_visible(xid):
                time.sleep(_POLL_INTERVAL)

    def lineage(self, table: TableName, oid: int) -> Lineage:
        """
        Return the lineage of a table.

        Args:
            table: The table's name in the stream; it may have been renamed since.
            oid: The table's OID, which survives a change of name.
        """
        rows = query(self.alias, _LINEAGE.format(condition=_BY_OID), [oid])
        return self._lineage(table, [row[2:] for row in rows])

    def lineages(self, tables: Collection[TableName]) -> dict[TableName, Lineage]:
        """Return the lineages of existing tables."""
        lines: dict[TableName, list[tuple[Any, ...]]] = {name: [] for name in tables}
        schemas = [table.schema for table in tables]
        names = [table.name for table in tables]
        statement = _LINEAGE.format(condition=_BY_NAME)
        for schema, name, *row in query(self.alias, statement, [schemas, names]):
            lines[TableName(schema, name)].append(tuple(row))
        return {table: self._lineage(table, line) for table, line in lines.items()}

    def warn_of_missing_columns(
        self, model: type[Model], oid: int, columns: Collection[str]
    ) -> None:
        """
        Log a warning for each column that a model has and its table lacks, once.

        Args:
            model: The table's model.
            oid: The table's OID.
            columns: The published columns. The table may have others.
        """
        unpublished = {*column_fields(model)} - {*columns}
        if not unpublished:
            return
        existing = {name for (name,) in query(self.alias, _COLUMNS, [oid])}
        for column in sorted(unpublished - existing if existing else ()):
            if (model, column) not in self._warned:
                self._warned.add((model, column))
                logger.warning(
                    "The table of %s has no column %s. The field is deferred on the"
                    " instances of its events. Migrate the database or fix the model.",
                    *(model._meta.label, column),
                    extra={"database": self.alias, "model": model._meta.label},
                )

    def kind(self, model: type[Model]) -> str | None:
        """Return the kind of a model's relation if its changes aren't in the WAL."""
        quoted = connections[self.alias].ops.quote_name(model._meta.db_table)
        for kind, persistence in query(self.alias, _KIND, [[quoted]]):
            return _KINDS.get(kind) or _PERSISTENCES.get(persistence)
        return None

    def _is_visible(self, xid: int) -> bool:
        """Return whether a transaction was visible in the last snapshot."""
        if self._snapshot is None:
            return False
        xmax, running = self._snapshot
        # Transaction IDs have 64 bits, but the stream sends the lower 32 bits only.
        return (xid - xmax) % _XIDS >= _XIDS // 2 and xid not in running

    def _lineage(self, table: TableName, line: Sequence[tuple[Any, ...]]) -> Lineage:
        models, names = [], [table]
        for _, oid, *name in line:
            names.append(TableName(*name))
            if model := self._model(oid, names[-1]):
                models.append(model)
        is_known = bool(line) and line[0][1] in self._by_oid
        # If it was renamed, replaced or dropped since, use its old name.
        if not is_known and (model := self._former_model(table)):
            models.insert(0, model)
        return Lineage(
            model=models[0] if models else None,
            names=frozenset(names),
            models=frozenset(models),
            exists=bool(line),
            may_be_partitioned=not line or line[0][0],
        )

    def _model(self, oid: int, name: TableName) -> type[Model] | None:
        """Return the model of an existing table."""
        if self._names.get(oid) != name and self._may_be_new(oid, name):
            self._refresh()
        return self._by_oid.get(oid)

    def _may_be_new(self, oid: int, name: TableName) -> bool:
        """Return whether a table may have got a model since the last refresh."""
        return oid in self._by_oid or name in self._by_name or self._may_be_absent(name)

    def _may_be_absent(self, name: TableName) -> bool:
        """Return whether a model without a table may have had one with this name."""
        return any(name.name in model._meta.db_table for model in self._absent)

    def _former_model(self, name: TableName) -> type[Model] | None:
        """Return the model that had a table with this name and has none now."""
        if not self._may_be_absent(name):
            return self._by_name.get(name)
        self._refresh()
        if self._absent and name not in self._by_name:
            ((path,),) = query(self.alias, "SELECT current_schemas(false)::text[]", [])
            for model in self._absent:
                schema, _, table = bare(model._meta.db_table).rpartition('"."')
                if table == name.name and name.schema in ([schema] if schema else path):
                    return model
        return self._by_name.get(name)

    def _refresh(self) -> None:
        models = concrete_models()
        # Quoted as by the ORM, which is how '"crm"."person"' becomes two names.
        quote = connections[self.alias].ops.quote_name
        quoted = [quote(model._meta.db_table) for model in models]
        found = {
            name: (oid, TableName(*table))
            for name, oid, *table in query(self.alias, _FIND, [quoted])
        }
        previous, self._by_oid = self._by_oid, {}
        self._by_name, self._names, self._absent = {}, {}, []
        for name, model in zip(quoted, models, strict=True):
            if name in found:
                oid, table = found[name]
                self._by_oid[oid] = self._by_name[table] = model
                self._names[oid] = table
            else:
                self._absent.append(model)
        # A renamed table belongs to its model until the model has another table.
        for oid, model in previous.items():
            if model in self._absent:
                self._by_oid.setdefault(oid, model)


def column_fields(model: type[Model]) -> dict[str, Field[Any, Any]]:
    """Return the fields of a model's own table by unquoted column name."""
    fields = model._meta.local_concrete_fields
    return {bare(field.column): field for field in fields if field.column}


def bare(name: str) -> str:
    """Return a name without the quotes that Django would keep around it."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        return name[1:-1]
    return name


# to_regclass() would do all of this, but fails if the role may not use a schema.
_CLASSES = """
FROM unnest(%s::text[]) AS requested(name)
CROSS JOIN parse_ident(requested.name) AS part
JOIN pg_catalog.pg_class AS class ON class.relname = part[cardinality(part)]::name
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE CASE WHEN cardinality(part) > 1 THEN namespace.nspname = part[1]
    ELSE pg_catalog.pg_table_is_visible(class.oid) END
"""
_TABLES = (
    "SELECT requested.name, class.oid, namespace.nspname, class.relname" + _CLASSES
)
_FIND = _TABLES + "AND class.relkind IN ('r', 'p') AND class.relpersistence = 'p'"
_KIND = "SELECT class.relkind::text, class.relpersistence::text" + _CLASSES
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
}
_PERSISTENCES = {"u": "an unlogged table", "t": "a temporary table"}

_BY_OID = "class.oid = %s"
_BY_NAME = (
    "(namespace.nspname, class.relname) IN"
    " (SELECT * FROM unnest(%s::text[], %s::text[]))"
)
_LINEAGE = """
WITH RECURSIVE line AS (
    SELECT namespace.nspname, class.relname, class.oid, ARRAY[]::integer[] AS path
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE {condition}
    UNION ALL
    SELECT line.nspname, line.relname, inherits.inhparent, path || inherits.inhseqno
    FROM line JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhrelid = line.oid
)
SELECT line.nspname, line.relname, class.relkind = 'p', class.oid,
    namespace.nspname, class.relname
FROM line
JOIN pg_catalog.pg_class AS class ON class.oid = line.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
ORDER BY cardinality(path), path
"""

_XIDS = 1 << 32
_VISIBILITY_TIMEOUT = 5.0  # seconds; usually milliseconds, except with a fixed snapshot
_POLL_INTERVAL = 0.002  # seconds
_SNAPSHOT = """
SELECT pg_snapshot_xmax(snapshot)::text,
    ARRAY(SELECT xid::text FROM pg_snapshot_xip(snapshot) AS xid)
FROM pg_current_snapshot() AS snapshot
"""

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""
