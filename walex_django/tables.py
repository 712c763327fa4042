"""Relations to models, rows to records and instances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import JSONField, Model
from django.db.models.expressions import Col
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.datetime import TimestamptzLoader

from .catalogue import Lineage, column_fields
from .column_types import ColumnType
from .pgoutput.messages import (
    UNCHANGED,
    Delete,
    Insert,
    PartialRow,
    Relation,
    Row,
    RowMessage,
    Truncate,
    Update,
    Value,
)
from .pgoutput.values import JSONB, ExactText, RowLoader, decode_json
from .replication.publications import TableName
from .version import __version__

if TYPE_CHECKING:
    from .filters import TableFilter


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


class Table:
    """
    One table as a RELATION message described it.

    Args:
        relation: the message.
        model: the concrete model of the table, if it has one.
        lineage: whose it is, where that is known.
        is_whole: its old rows are whole if they are marked so.
        alias: of the database, for instances.
        types: of the columns.
        version: of the walex_django that made the events.

    Attributes:
        filters: which of its rows are not wanted.
        sensitive: the columns whose values are not shown.

    What is the same for all rows is worked out once, when first needed.
    """

    def __init__(
        self,
        relation: Relation,
        *,
        model: type[Model] | None,
        alias: str,
        types: Sequence[ColumnType],
        lineage: Lineage | None = None,
        is_whole: bool = True,
        version: str = __version__,
    ) -> None:
        self.name = TableName(relation.schema, relation.name)
        self.model = model
        self.lineage = lineage
        self.is_whole = is_whole
        self.alias = alias
        self.columns = relation.columns
        self.types = types
        self.column_names = [column.name for column in relation.columns]
        self.source = Source(
            db=alias,
            schema=relation.schema,
            table=relation.name,
            columns=MappingProxyType(
                {
                    column: type.name
                    for column, type in zip(self.column_names, types, strict=True)
                }
            ),
            version=version,
        )
        self.filters: Sequence[TableFilter] = ()
        self.sensitive: frozenset[str] = frozenset()
        self._records = RowLoader([type.record_oid for type in types])
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

    def old_row(self, message: RowMessage | Truncate) -> Row | None:
        """Return the old row with `UNCHANGED` where the server told nothing."""
        if not isinstance(message, Update | Delete):
            return None
        if message.old is not None and not self.is_whole:
            return PartialRow(UNCHANGED if v is None else v for v in message.old)
        if message.old is not None or message.key is None:
            return message.old
        # The NULLs of what is not the key tell nothing.
        return PartialRow(
            value if column.is_key else UNCHANGED
            for value, column in zip(message.key, self.columns, strict=True)
        )

    def new_row(self, message: RowMessage | Truncate) -> Row | None:
        """Return the new row with `UNCHANGED` where the server told nothing."""
        if isinstance(message, Insert):
            return message.new
        if not isinstance(message, Update):
            return None
        if message.old is None or type(message.new) is not PartialRow:
            return message.new
        # REPLICA IDENTITY FULL: the old row has what was not sent with the new.
        old_row = self.old_row(message)
        assert old_row is not None
        return PartialRow(
            old if new is UNCHANGED else new
            for new, old in zip(message.new, old_row, strict=True)
        )

    def field_value(self, index: int, value: Value) -> Any:
        """Return the value of one column as the model's field has it, if any has."""
        loader = self._instance_loader()
        if loader and (found := loader.load_one(index, value)):
            return found[0]
        return self._records.load_one(index, value)

    def instance(self, row: Row) -> Model | None:
        """Return a model instance; what is `UNCHANGED` in the row is deferred."""
        loader = self._instance_loader()
        return loader.load(row) if loader else None

    def _instance_loader(self) -> InstanceLoader | None:
        if self._instances is None and self.model is not None:
            oids = {
                name: type.oid
                for name, type in zip(self.column_names, self.types, strict=True)
            }
            self._instances = InstanceLoader(self.model, oids, self.alias)
        return self._instances


class InstanceLoader:
    """
    Makes model instances of rows, with the values that the ORM would have loaded.

    Args:
        model: a concrete model.
        columns: of the relation, with the OIDs of their types; in any order, with more
            or fewer than the fields.
        alias: of the database that the instances belong to.
    """

    def __init__(
        self, model: type[Model], columns: Mapping[str, int], alias: str
    ) -> None:
        self._from_db, self._alias = model.from_db, alias
        self._connection = connections[alias]
        places = {column: place for place, column in enumerate(columns)}
        fields, picked, oids = [], [], []
        for column, each in column_fields(model).items():
            place = places.get(column)
            if place is not None:
                fields.append(each)
                picked.append(place)
                oids.append(columns[column])
        self._names = [each.attname for each in fields]
        self._pick = _picker(picked, len(columns))
        self._picked = picked
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
            values: Sequence[Any] = self._loader.load_quickly(picked)
            if self._converters:
                values = list(values)
                for place, function, expression in self._converters:
                    values[place] = function(
                        values[place], expression, self._connection
                    )
        except Exception:  # noqa: BLE001 - see RowLoader; converters raise likewise
            return self._load_each(picked)
        return self._from_db(self._alias, self._names, values)

    def load_one(self, index: int, value: Value) -> list[Any]:
        """Return the value of one of the columns, or nothing if no field has it."""
        if index not in self._picked:
            return []
        place = self._picked.index(index)
        return [self._converted(place, self._loader.load_one(place, value), value)]

    def _converted(self, place: int, value: Any, text: Value) -> Any:
        """Return a value as its field has it, or the text that this refuses."""
        for at, function, expression in self._converters:
            # Neither is a value that a converter expects.
            if at != place or value is UNCHANGED or isinstance(value, ExactText):
                continue
            try:
                value = function(value, expression, self._connection)
            except Exception:
                if not isinstance(text, bytes):
                    raise
                value = ExactText.of(text)
        return value

    def _load_each(self, picked: Sequence[Value]) -> Model:
        values = [
            self._converted(place, value, text)
            for place, (value, text) in enumerate(
                zip(self._loader.load(picked), picked, strict=True)
            )
        ]
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
