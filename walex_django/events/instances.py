"""Convert rows to model instances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, cast
from zoneinfo import ZoneInfo

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import JSONField, Model
from django.db.models.expressions import Col
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.datetime import TimestamptzLoader

from walex_django.pgoutput.messages import UNCHANGED, PartialRow, Row, Value
from walex_django.pgoutput.values import JSONB, ExactText, RowLoader, decode_json

from .catalogue import column_fields


class InstanceLoader:
    """
    Creates model instances from rows, with the values that the ORM would load.

    Args:
        model: A concrete model.
        columns: The relation's columns with the OIDs of their types, in any order. They
            may be more or fewer than the model's fields.
        alias: The alias of the database that the instances belong to.
    """

    def __init__(
        self, model: type[Model], columns: Mapping[str, int], alias: str
    ) -> None:
        self._from_db, self._alias = model.from_db, alias
        self._connection = connections[alias]
        places = {column: place for place, column in enumerate(columns)}
        fields, picked, oids = [], [], []
        for column, field in column_fields(model).items():
            place = places.get(column)
            if place is not None:
                fields.append(field)
                picked.append(place)
                oids.append(columns[column])
        self._names = [field.attname for field in fields]
        self._pick = _picker(picked, len(columns))
        self._picked = picked
        self._loader = RowLoader(oids, orm_adapters(alias))
        self._converters = [
            (place, function, column)
            for place, field in enumerate(fields)
            for column in [field.get_col(model._meta.db_table)]
            for function in _converters(column, oids[place], self._connection)
        ]

    def load(self, row: Row) -> Model:
        """Return an instance, with the fields whose value is `UNCHANGED` deferred."""
        picked = self._pick(row)
        if type(row) is PartialRow:
            return self._load_one_by_one(PartialRow(picked))
        try:
            values: Sequence[Any] = self._loader.load_quickly(picked)
            if self._converters:
                values = list(values)
                for place, function, expression in self._converters:
                    values[place] = function(
                        values[place], expression, self._connection
                    )
        except Exception:  # noqa: BLE001 - see RowLoader; converters may raise, too
            return self._load_one_by_one(picked)
        return self._from_db(self._alias, self._names, values)

    def load_one(self, index: int, value: Value) -> list[Any]:
        """Return a list with the value of a column; an empty one if no field has it."""
        if index not in self._picked:
            return []
        place = self._picked.index(index)
        return [self._converted(place, self._loader.load_one(place, value), value)]

    def _converted(self, place: int, value: Any, text: Value) -> Any:
        """Return a value as its field has it, or its text if a converter fails."""
        for index, function, expression in self._converters:
            # Converters expect neither UNCHANGED nor an ExactText.
            if index != place or value is UNCHANGED or isinstance(value, ExactText):
                continue
            try:
                value = function(value, expression, self._connection)
            except Exception:
                if not isinstance(text, bytes):
                    raise
                value = ExactText.of(text)
        return value

    def _load_one_by_one(self, picked: Sequence[Value]) -> Model:
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
    """Return a function that picks the values at ``places`` from ``count`` values."""
    if places == list(range(count)):
        return lambda row: row
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: [row[place] for place in places]


def _converters(
    column: Col, oid: int, connection: BaseDatabaseWrapper
) -> list[Callable[..., Any]]:
    """Return the converters that the ORM would apply to a column's value, in order."""
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
    """Convert as `JSONField.from_db_value` without a decoder, at half the cost."""
    if value is None:
        return None
    try:
        return decode_json(value)
    except (ValueError, RecursionError):  # exceeds Python's limits on digits or depth
        return ExactText(value)


def orm_adapters(alias: str) -> AdaptersMap:
    """Return the loaders of the ORM's own connections, extension types included."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _orm_adapters(alias)
    # Django doesn't connect in a thread that runs an event loop.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_orm_adapters, alias, close=True).result()


def _orm_adapters(alias: str, *, close: bool = False) -> AdaptersMap:
    wrapper = cast("DatabaseWrapper", connections[alias])
    wrapper.ensure_connection()
    adapters = AdaptersMap(wrapper.connection.adapters)
    # Django's loader sets the time zone without converting, because it relies on a
    # connection that prints times in that zone. The stream prints times in UTC.
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
