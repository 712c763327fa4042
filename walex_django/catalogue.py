"""What a database's catalogue says: whose a table is, and what a type is."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from django.apps import apps
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model
from psycopg.pq import Format

from .pgoutput.messages import Type
from .replication.publications import TableName

logger = logging.getLogger(__name__)

_TEXT = psycopg.adapters.types["text"].oid
_FIRST_USER_OID = 16384


def _query(alias: str, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Ask the ORM's database, once more if its connection had died while idle."""
    wrapper = connections[alias]
    try:
        return _ask(wrapper, query, parameters)
    except (OperationalError, InterfaceError):
        if wrapper.in_atomic_block:
            raise
        wrapper.close()
        return _ask(wrapper, query, parameters)


def _ask(
    wrapper: BaseDatabaseWrapper, query: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    with wrapper.cursor() as cursor:
        cursor.execute(query, parameters)
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

    def items(self) -> Iterable[tuple[TableName, type[Model]]]:
        """Return the tables that are in the database now, with their models."""
        self._look()
        return self._by_name.items()

    def lineage(self, table: TableName, oid: int) -> Lineage:
        """
        Return whose a table is.

        Args:
            table: its name, perhaps one of old that the table has no longer.
            oid: of the table, which outlives its names.
        """
        rows = _query(self.alias, _LINEAGE.format(asked=_BY_OID), [oid])
        return self._lineage(table, [row[2:] for row in rows])

    def lineages(self, tables: Collection[TableName]) -> dict[TableName, Lineage]:
        """Return whose these tables are, which are in the database now."""
        lines: dict[TableName, list[tuple[Any, ...]]] = {name: [] for name in tables}
        schemas = [table.schema for table in tables]
        names = [table.name for table in tables]
        asked = _LINEAGE.format(asked=_BY_NAME)
        for schema, name, *row in _query(self.alias, asked, [schemas, names]):
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
        there = {name for (name,) in _query(self.alias, _COLUMNS, [oid])}
        for column in sorted(absent - there if there else ()):
            if (model, column) not in self._warned:
                self._warned.add((model, column))
                logger.warning(
                    "The table of %s has no column %s: on the instances of its events"
                    " that field is deferred. Migrate, or mend the model.",
                    *(model._meta.label, column),
                    extra={"database": self.alias},
                )

    def kind(self, model: type[Model]) -> str | None:
        """Return what a model has instead of a table whose changes are logged."""
        quoted = connections[self.alias].ops.quote_name(model._meta.db_table)
        for kind, persistence in _query(self.alias, _KIND, [[quoted]]):
            return _KINDS.get(kind) or _PERSISTENCES.get(persistence)
        return None

    def tells_whole_rows(self, oid: int) -> bool:
        """
        Return whether REPLICA IDENTITY FULL is meant by all of a table's partitions.

        Those that have another one send their keys, marked as whole rows, where it is
        the root that is published.
        """
        ((whole,),) = _query(self.alias, _WHOLE, [oid])
        return whole is not False

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
        return (
            oid in self._by_oid
            or name in self._by_name
            or any(name.name in model._meta.db_table for model in self._absent)
        )

    def _model_once(self, name: TableName) -> type[Model] | None:
        """Return the model that had a table of that name, and has none now."""
        if not any(name.name in model._meta.db_table for model in self._absent):
            return self._by_name.get(name)
        self._look()
        if self._absent and name not in self._by_name:
            ((path,),) = _query(self.alias, "SELECT current_schemas(false)::text[]", [])
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
            for name, oid, *table in _query(self.alias, _FIND, [quoted])
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

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """
    The type of a column, and how its text is read.

    Attributes:
        name: in SQL, such as ``"bigint"``, ``"text[]"`` or ``"shop.mood"``.
        oid: the type that the ORM sees: of a domain, its base.
        base: the name of that.
        record_oid: the type whose loader reads it for records: one that psycopg knows.
    """

    name: str
    oid: int
    base: str
    record_oid: int

    @classmethod
    def known(cls, oid: int, name: str) -> ColumnType:
        """Return a type that is read as itself."""
        return cls(name, oid, name, oid)


class ColumnTypes:
    """
    The types of a database, those included that its users have made.

    Each is asked for once, with an ordinary query.

    Args:
        alias: of the database.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._told: dict[int, Type] = {}
        self._types: dict[int, ColumnType] = {}

    def tell(self, message: Type) -> None:
        """Take in what the stream says of a type, before its first use."""
        if self._told.get(message.oid) != message:
            self._told[message.oid] = message
            self._types.pop(message.oid, None)

    def resolve(self, oids: Collection[int]) -> list[ColumnType]:
        """Return types by their OIDs, in that order."""
        unknown = set(oids) - self._types.keys()
        if unknown:
            self._resolve(unknown)
        return [self._types[oid] for oid in oids]

    def _resolve(self, oids: set[int]) -> None:
        rows: dict[int, _Row] = {}
        seen: set[int] = set()
        asked = oids
        while asked := {oid for oid in asked - seen if not known_type(oid)}:
            seen |= asked
            found = _query(self._alias, _TYPES, [[*asked]])
            rows |= {oid: _Row(*row) for oid, *row in found}
            asked = {row.part for row in rows.values() if row.part}
        for oid in oids:
            self._types[oid] = self._type(oid, rows)

    def _type(self, oid: int, rows: Mapping[int, _Row]) -> ColumnType:
        if (known := known_type(oid)) is not None:
            return known
        row = rows.get(oid)
        if row is None:
            return self._gone(oid)
        if not row.part:
            return ColumnType(row.name, oid, row.name, _TEXT)
        part = self._type(row.part, rows)
        if row.is_domain:
            return ColumnType(row.name, part.oid, part.base, part.record_oid)
        return ColumnType(row.name, oid, row.name, _array_of(part, row.delimiter))

    def _gone(self, oid: int) -> ColumnType:
        """Return what the stream has told of a type that was dropped since."""
        told = self._told.get(oid)
        if told is None:
            return ColumnType(f"oid {oid}", oid, f"oid {oid}", _TEXT)
        if told.schema == "pg_catalog":  # of a domain, only its base is told
            element, array = told.name.removeprefix("_"), told.name.startswith("_")
            if info := psycopg.adapters.types.get(element):
                base = info.array_oid if array else info.oid
                return known_type(base) or ColumnType.known(base, told.name)
        return ColumnType(told.name, oid, told.name, _TEXT)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    is_domain: bool
    part: int  # the domain's base, or the array's element, or 0
    delimiter: str


_TYPES = """
SELECT type.oid, pg_catalog.format_type(type.oid, NULL), type.typtype = 'd',
    CASE WHEN type.typtype = 'd' THEN type.typbasetype
        WHEN type.typcategory = 'A' THEN type.typelem ELSE 0 END::bigint,
    type.typdelim::text
FROM pg_catalog.pg_type AS type WHERE type.oid = ANY(%s::oid[])
"""


def known_type(oid: int) -> ColumnType | None:
    """Return a type that psycopg knows, by itself or because it was taught to."""
    info = psycopg.adapters.types.get(oid)
    if info is None:
        return None
    if oid >= _FIRST_USER_OID and not psycopg.adapters.get_loader(oid, Format.TEXT):
        return None  # its name was registered, and no loader
    return ColumnType.known(
        oid, info.regtype if oid == info.oid else f"{info.regtype}[]"
    )


def _array_of(element: ColumnType, delimiter: str) -> int:
    """Return the type whose loader reads an array; text where there is none."""
    info = psycopg.adapters.types.get(element.record_oid)
    assert info
    if info.oid != element.record_oid:  # of arrays: their text is what an array holds
        info = psycopg.adapters.types["text"]
    return info.array_oid if info.delimiter == delimiter else _TEXT
