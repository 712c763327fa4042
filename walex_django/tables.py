"""Relations to models, rows to records and instances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from types import MappingProxyType
from typing import Any, cast
from zoneinfo import ZoneInfo

import psycopg
from django.apps import apps
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import JSONField, Model
from django.db.models.expressions import Col
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.datetime import TimestamptzLoader

from .pgoutput.messages import (
    UNCHANGED,
    Column,
    PartialRow,
    Relation,
    Row,
    Type,
    Value,
)
from .pgoutput.values import JSONB, ExactText, RowLoader, decode_json
from .replication.publications import TableName
from .version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """
    Where an event comes from.

    Attributes:
        name: ``"walex_django"``.
        version: of walex_django.
        db: alias of the database in ``DATABASES``.
        schema, table: as in the catalogue, unquoted.
        columns: the SQL name of each column's type, by column.
    """

    name: str = "walex_django"
    version: str = field(default=__version__, compare=False)
    db: str
    schema: str
    table: str
    columns: Mapping[str, str] = field(hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return {
            "name": self.name,
            "version": self.version,
            "db": self.db,
            "schema": self.schema,
            "table": self.table,
            "columns": dict(self.columns),
        }


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

    def model(self, table: TableName, oid: int = 0) -> type[Model] | None:
        """
        Return the concrete model of a table, or `None`.

        Args:
            table: its name, perhaps one of old that the table has no longer.
            oid: of the table, which outlives its names.
        """
        if oid not in self._by_oid and table not in self._by_name:
            # The table may be younger than our last look.
            self._look()
        return self._by_oid.get(oid) or self._by_name.get(table)

    def exists(self, oid: int) -> bool:
        """Return whether a table of that OID is there now."""
        return bool(_query(self.alias, "SELECT FROM pg_class WHERE oid = %s", [oid]))

    def items(self) -> Iterable[tuple[TableName, type[Model]]]:
        """Return the tables that are in the database now, with their models."""
        self._look()
        return self._by_name.items()

    def _look(self) -> None:
        models = concrete_models()
        # Quoted as the ORM does it: that is what makes '"crm"."person"' two names.
        quote = connections[self.alias].ops.quote_name
        quoted = [quote(model._meta.db_table) for model in models]
        found = {
            name: (oid, TableName(*table))
            for name, oid, *table in _query(self.alias, _FIND, [quoted])
        }
        self._by_oid, self._by_name = {}, {}
        for name, model in zip(quoted, models, strict=True):
            if name in found:
                oid, table = found[name]
                self._by_oid[oid] = self._by_name[table] = model


def _query(alias: str, query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
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
    wrapper: BaseDatabaseWrapper, query: str, parameters: list[Any]
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


# to_regclass() would do it all, but raises where the role may not use a schema.
_FIND = """
SELECT asked.name, class.oid, namespace.nspname, class.relname
FROM unnest(%s::text[]) AS asked(name)
CROSS JOIN parse_ident(asked.name) AS part
JOIN pg_catalog.pg_class AS class ON class.relname = part[cardinality(part)]::name
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p') AND class.relpersistence = 'p'
AND CASE WHEN cardinality(part) > 1 THEN namespace.nspname = part[1]
    ELSE pg_catalog.pg_table_is_visible(class.oid) END
"""


class Table:
    """
    One table as a RELATION message described it.

    Args:
        relation: the message.
        model: the concrete model of the table, if it has one.
        alias: of the database, for instances.
        type_names: the SQL name of each column's type.
        version: of the walex_django that made the events.

    What is the same for all rows is worked out once, when first needed.
    """

    def __init__(
        self,
        relation: Relation,
        *,
        model: type[Model] | None,
        alias: str,
        type_names: Sequence[str],
        version: str = __version__,
    ) -> None:
        self.name = TableName(relation.schema, relation.name)
        self.model = model
        self.alias = alias
        self.columns = relation.columns
        self.column_names = [column.name for column in relation.columns]
        self.source = Source(
            db=alias,
            schema=relation.schema,
            table=relation.name,
            columns=MappingProxyType(
                dict(zip(self.column_names, type_names, strict=True))
            ),
            version=version,
        )
        self._records = RowLoader([column.type_oid for column in relation.columns])
        self._instances: InstanceLoader | None = None

    def record(self, row: Row) -> dict[str, Any]:
        """Return the Python values of a whole row by column."""
        return dict(zip(self.column_names, self.load(row), strict=True))

    def load(self, row: Row) -> tuple[Any, ...]:
        """Return the Python values of a row, in the order of the columns."""
        return self._records.load(row)

    def value(self, index: int, row: Row) -> Any:
        """Return the Python value of one column."""
        return self._records.load_one(index, row[index])

    def key_row(self, row: Row) -> Row:
        """Return a key tuple with `UNCHANGED` for the NULLs that tell nothing."""
        return PartialRow(
            value if column.is_key else UNCHANGED
            for value, column in zip(row, self.columns, strict=True)
        )

    def instance(self, row: Row) -> Model | None:
        """Return a model instance; what is `UNCHANGED` in the row is deferred."""
        if self.model is None:
            return None
        if self._instances is None:
            self._instances = InstanceLoader(self.model, self.columns, self.alias)
        return self._instances.load(row)


def type_name(oid: int, types: Mapping[int, Type]) -> str:
    """Return the name of a type as in SQL, such as ``"bigint"`` or ``"text[]"``."""
    if info := psycopg.adapters.types.get(oid):
        return info.regtype if oid == info.oid else f"{info.regtype}[]"
    if oid in types:
        return types[oid].name
    return f"oid {oid}"


class InstanceLoader:
    """
    Makes model instances of rows, with the values that the ORM would have loaded.

    Args:
        model: a concrete model.
        columns: of the relation; in any order, with more or fewer than the fields.
        alias: of the database that the instances belong to.
    """

    def __init__(
        self, model: type[Model], columns: Sequence[Column], alias: str
    ) -> None:
        self._from_db, self._alias = model.from_db, alias
        self._connection = connections[alias]
        places = {column.name: place for place, column in enumerate(columns)}
        fields, picked = [], []
        for each in model._meta.local_concrete_fields:
            place = places.get(each.column or "")
            if place is not None:
                fields.append(each)
                picked.append(place)
        oids = [columns[place].type_oid for place in picked]
        self._names = [each.attname for each in fields]
        self._pick = _picker(picked, len(columns))
        self._loader = RowLoader(oids, orm_adapters(alias))
        self._converters = [
            (place, function, column)
            for place, each in enumerate(fields)
            for column in [each.get_col(model._meta.db_table)]
            for function in _converters(column, oids[place], self._connection)
        ]

    def load(self, row: Row) -> Model:
        """Return an instance; fields whose value is `UNCHANGED` are deferred."""
        picked = self._pick(row)
        if type(row) is PartialRow:
            return self._load_each(PartialRow(picked))
        try:
            values = self._loader.load_quickly(picked)
        except Exception:  # noqa: BLE001 - see RowLoader
            return self._load_each(picked)
        if self._converters:
            converted = list(values)
            for place, function, expression in self._converters:
                converted[place] = function(
                    converted[place], expression, self._connection
                )
            return self._from_db(self._alias, self._names, converted)
        return self._from_db(self._alias, self._names, values)

    def _load_each(self, picked: Sequence[Value]) -> Model:
        values = list(self._loader.load(picked))
        for place, function, expression in self._converters:
            value = values[place]
            # Neither is a value that a converter expects.
            if value is not UNCHANGED and not isinstance(value, ExactText):
                values[place] = function(value, expression, self._connection)
        known = [
            (n, v)
            for n, v in zip(self._names, values, strict=True)
            if v is not UNCHANGED
        ]
        return self._from_db(self._alias, [n for n, _ in known], [v for _, v in known])


def _picker(places: list[int], count: int) -> Callable[[Row], Sequence[Value]]:
    """Return a function that picks from ``count`` values those at ``places``."""
    if places == list(range(count)):
        return lambda row: row
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: [row[place] for place in places]


def _converters(
    column: Col, oid: int, connection: BaseDatabaseWrapper
) -> list[Callable[..., Any]]:
    """Return what the ORM would run on a column's value, in order."""
    field = column.target
    if (
        isinstance(field, JSONField)
        and type(field).from_db_value is JSONField.from_db_value
        and field.decoder is None
        and oid == JSONB
    ):
        return [_json_value]
    return [
        *connection.ops.get_db_converters(column),
        *column.get_db_converters(connection),
    ]


def _json_value(value: str | None, *context: object) -> Any:
    """Do what `JSONField.from_db_value` does without a decoder, at half the cost."""
    if value is None:
        return None
    try:
        return decode_json(value)
    except (ValueError, RecursionError):  # more digits or depth than Python takes
        return ExactText(value)


def orm_adapters(alias: str) -> AdaptersMap:
    """Return the loaders of the ORM's own connections, extension types included."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _orm_adapters(alias)
    # A coroutine asks, in whose thread Django does not connect.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_orm_adapters, alias, close=True).result()


def _orm_adapters(alias: str, *, close: bool = False) -> AdaptersMap:
    wrapper = cast("DatabaseWrapper", connections[alias])
    wrapper.ensure_connection()
    adapters = AdaptersMap(wrapper.connection.adapters)
    # Django's loader sets the zone without converting: it counts on a connection
    # that prints in that zone, and the stream prints in UTC.
    adapters.register_loader("timestamptz", _timestamptz_loader(wrapper))
    if close:
        wrapper.close()
    return adapters


def _timestamptz_loader(wrapper: DatabaseWrapper) -> type[Loader]:
    aware = wrapper.timezone is not None
    zone = ZoneInfo(wrapper.timezone_name)
    if aware and wrapper.timezone is UTC:
        return TimestamptzLoader

    class ZonedLoader(TimestamptzLoader):
        def load(self, data: Buffer) -> datetime:
            moment = super().load(data).astimezone(zone)
            return moment if aware else moment.replace(tzinfo=None)

    return ZonedLoader
