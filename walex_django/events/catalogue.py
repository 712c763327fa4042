"""What a database's catalogue says: whose a table is."""

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
    Ask the ORM's database, once more if its connection had died while idle.

    Args:
        alias: of the database.
        statement: with a place for each of the parameters.
        parameters: for these.

    Raises:
        django.db.Error: it did not answer.
    """
    wrapper = connections[alias]
    try:
        return _ask(wrapper, statement, parameters)
    except (OperationalError, InterfaceError):
        if wrapper.in_atomic_block:
            raise
        wrapper.close()
        return _ask(wrapper, statement, parameters)


def _ask(
    wrapper: BaseDatabaseWrapper, statement: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    with wrapper.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def concrete_models() -> list[type[Model]]:
    """
    Return each installed model that has a table of its own.

    The tables of many-to-many fields are among them; proxies and swapped models not.
    Of two models of one table the managed one comes last.
    """
    models = apps.get_models(include_auto_created=True)
    concrete = [model for model in models if not model._meta.proxy]
    return sorted(concrete, key=lambda model: model._meta.managed)


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    Whose a table is.

    Attributes:
        model: the table's own, else that of the nearest table that it is a partition
            of, or inherits from; or `None`.
        names: the table's, and those of the tables that it is a part of.
        models: all of theirs.
        exists: it is there now.
    """

    model: type[Model] | None
    names: frozenset[TableName]
    models: frozenset[type[Model]]
    exists: bool


class ModelTables:
    """
    The models of the installed apps by their tables in one database.

    Args:
        alias: of the database. Its search path tells the schema of a ``db_table``,
            unless that is spelled out, as in ``'"crm"."person"'``.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._by_oid: dict[int, type[Model]] = {}
        self._by_name: dict[TableName, type[Model]] = {}
        self._names: dict[int, TableName] = {}
        self._absent = concrete_models()
        self._warned: set[tuple[type[Model], str]] = set()
        # Of the last look: the end of the transactions seen, and those not seen.
        self._snapshot: tuple[int, set[int]] | None = None

    def items(self) -> Iterable[tuple[TableName, type[Model]]]:
        """Return the tables that are in the database now, with their models."""
        self._look()
        return self._by_name.items()

    def await_commit(self, xid: int) -> None:
        """
        Wait until the catalogue tells what a transaction has changed of it.

        The log tells of a COMMIT some moments before others see what it committed.

        Args:
            xid: of the transaction, of 32 bits.
        """
        deadline = time.monotonic() + _VISIBLE_WITHIN
        while not self._sees(xid) and time.monotonic() < deadline:
            ((end, running),) = query(self.alias, _SNAPSHOT, [])
            self._snapshot = int(end), {int(each) % _XIDS for each in running}
            if not self._sees(xid):
                time.sleep(_LOOK_AGAIN)

    def lineage(self, table: TableName, oid: int) -> Lineage:
        """
        Return whose a table is.

        Args:
            table: its name, perhaps one of old that the table has no longer.
            oid: of the table, which outlives its names.
        """
        rows = query(self.alias, _LINEAGE.format(asked=_BY_OID), [oid])
        return self._lineage(table, [row[2:] for row in rows])

    def lineages(self, tables: Collection[TableName]) -> dict[TableName, Lineage]:
        """Return whose these tables are, which are in the database now."""
        lines: dict[TableName, list[tuple[Any, ...]]] = {name: [] for name in tables}
        schemas = [table.schema for table in tables]
        names = [table.name for table in tables]
        asked = _LINEAGE.format(asked=_BY_NAME)
        for schema, name, *row in query(self.alias, asked, [schemas, names]):
            lines[TableName(schema, name)].append(tuple(row))
        return {table: self._lineage(table, line) for table, line in lines.items()}

    def warn_of_misfit(
        self, model: type[Model], oid: int, columns: Collection[str]
    ) -> None:
        """
        Log each column that a model has and its table has not, once.

        Args:
            model: whose rows come.
            oid: of the table.
            columns: those that come. Others may be there and not be published.
        """
        absent = {*column_fields(model)} - {*columns}
        if not absent:
            return
        there = {name for (name,) in query(self.alias, _COLUMNS, [oid])}
        for column in sorted(absent - there if there else ()):
            if (model, column) not in self._warned:
                self._warned.add((model, column))
                logger.warning(
                    "The table of %s has no column %s: on the instances of its events"
                    " that field is deferred. Migrate, or mend the model.",
                    *(model._meta.label, column),
                    extra={"database": self.alias, "model": model._meta.label},
                )

    def kind(self, model: type[Model]) -> str | None:
        """Return what a model has instead of a table whose changes are logged."""
        quoted = connections[self.alias].ops.quote_name(model._meta.db_table)
        for kind, persistence in query(self.alias, _KIND, [[quoted]]):
            return _KINDS.get(kind) or _PERSISTENCES.get(persistence)
        return None

    def has_full_identity(self, oid: int) -> bool:
        """
        Return whether REPLICA IDENTITY FULL is meant by all of a table's partitions.

        Those that have another one send their keys, marked as whole rows, where it is
        the root that is published.
        """
        ((whole,),) = query(self.alias, _WHOLE, [oid])
        return whole is not False

    def _sees(self, xid: int) -> bool:
        """Return whether a transaction could be seen when we last looked."""
        if self._snapshot is None:
            return False
        end, running = self._snapshot
        # Numbers of 64 bits, of which the stream tells the lower half.
        return (xid - end) % _XIDS >= _XIDS // 2 and xid not in running

    def _lineage(self, table: TableName, line: Sequence[tuple[Any, ...]]) -> Lineage:
        models, names = [], [table]
        for oid, *name in line:
            names.append(TableName(*name))
            if model := self._model(oid, names[-1]):
                models.append(model)
        is_known = bool(line) and line[0][0] in self._by_oid
        # If it was renamed, replaced or dropped since, its old name tells whose it is.
        if not is_known and (model := self._model_once(table)):
            models.insert(0, model)
        return Lineage(
            model=models[0] if models else None,
            names=frozenset(names),
            models=frozenset(models),
            exists=bool(line),
        )

    def _model(self, oid: int, name: TableName) -> type[Model] | None:
        """Return the model of a table that is there now."""
        if self._names.get(oid) != name and self._may_be_new(oid, name):
            self._look()
        return self._by_oid.get(oid)

    def _may_be_new(self, oid: int, name: TableName) -> bool:
        """Return whether a table of that name may have a model since we looked."""
        return oid in self._by_oid or name in self._by_name or self._may_be_absent(name)

    def _may_be_absent(self, name: TableName) -> bool:
        """Return whether a model without a table may have had one of that name."""
        return any(name.name in model._meta.db_table for model in self._absent)

    def _model_once(self, name: TableName) -> type[Model] | None:
        """Return the model that had a table of that name, and has none now."""
        if not self._may_be_absent(name):
            return self._by_name.get(name)
        self._look()
        if self._absent and name not in self._by_name:
            ((path,),) = query(self.alias, "SELECT current_schemas(false)::text[]", [])
            for model in self._absent:
                schema, _, table = bare(model._meta.db_table).rpartition('"."')
                if table == name.name and name.schema in ([schema] if schema else path):
                    return model
        return self._by_name.get(name)

    def _look(self) -> None:
        models = concrete_models()
        # Quoted as the ORM does it: that is what makes '"crm"."person"' two names.
        quote = connections[self.alias].ops.quote_name
        quoted = [quote(model._meta.db_table) for model in models]
        found = {
            name: (oid, TableName(*table))
            for name, oid, *table in query(self.alias, _FIND, [quoted])
        }
        before, self._by_oid = self._by_oid, {}
        self._by_name, self._names, self._absent = {}, {}, []
        for name, model in zip(quoted, models, strict=True):
            if name in found:
                oid, table = found[name]
                self._by_oid[oid] = self._by_name[table] = model
                self._names[oid] = table
            else:
                self._absent.append(model)
        # A table that was renamed is its model's until that has another one.
        for oid, model in before.items():
            if model in self._absent:
                self._by_oid.setdefault(oid, model)


def column_fields(model: type[Model]) -> dict[str, Field[Any, Any]]:
    """Return the fields that a model's own table has, by column, unquoted."""
    fields = model._meta.local_concrete_fields
    return {bare(each.column): each for each in fields if each.column}


def bare(name: str) -> str:
    """Return a name without the quotes that Django would leave around it."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        return name[1:-1]
    return name


# to_regclass() would do it all, but raises where the role may not use a schema.
_CLASSES = """
FROM unnest(%s::text[]) AS asked(name)
CROSS JOIN parse_ident(asked.name) AS part
JOIN pg_catalog.pg_class AS class ON class.relname = part[cardinality(part)]::name
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE CASE WHEN cardinality(part) > 1 THEN namespace.nspname = part[1]
    ELSE pg_catalog.pg_table_is_visible(class.oid) END
"""
_TABLES = "SELECT asked.name, class.oid, namespace.nspname, class.relname" + _CLASSES
_FIND = _TABLES + "AND class.relkind IN ('r', 'p') AND class.relpersistence = 'p'"
_KIND = "SELECT class.relkind::text, class.relpersistence::text" + _CLASSES
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
}
_PERSISTENCES = {"u": "an unlogged table", "t": "a temporary table"}

_WHOLE = """
SELECT bool_and(class.relreplident = 'f')
FROM pg_catalog.pg_partition_tree(%s) AS tree
JOIN pg_catalog.pg_class AS class ON class.oid = tree.relid
WHERE tree.isleaf
"""

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
    WHERE {asked}
    UNION ALL
    SELECT line.nspname, line.relname, inherits.inhparent, path || inherits.inhseqno
    FROM line JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhrelid = line.oid
)
SELECT line.nspname, line.relname, class.oid, namespace.nspname, class.relname
FROM line
JOIN pg_catalog.pg_class AS class ON class.oid = line.oid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
ORDER BY cardinality(path), path
"""

_XIDS = 1 << 32
_VISIBLE_WITHIN = 5.0  # seconds; it is milliseconds, but for a snapshot that stays
_LOOK_AGAIN = 0.002  # seconds
_SNAPSHOT = """
SELECT pg_snapshot_xmax(snapshot)::text,
    ARRAY(SELECT xid::text FROM pg_snapshot_xip(snapshot) AS xid)
FROM pg_current_snapshot() AS snapshot
"""

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""
