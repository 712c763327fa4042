"""Filters of the events that a stream delivers and that handlers get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeAlias

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Field, ForeignKey, Model
from django.utils import timezone
from django.utils.module_loading import import_string

from . import log
from .events import masking
from .events.catalogue import column_fields
from .events.event import Event
from .events.table import Table
from .pgoutput.messages import (
    UNCHANGED,
    PartialRow,
    Row,
    RowMessage,
    Truncate,
    Update,
    Value,
)

logger = log.logger(__name__)

Where: TypeAlias = Callable[[Event], object]

_CACHE_SIZE = 1000  # compared values for each field
_MAX_CACHED_LENGTH = 100  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """
    Conditions under which events of a table are dropped.

    Columns whose old value is unknown are treated as changed.

    Attributes:
        unwatched_records: Values by field or column name. Drops an event whose new row
            (for DELETE, the old row) has all of them.
        unwatched_fields: Field names. Drops an UPDATE that changed no other fields.
        changed: Field names. Drops an UPDATE that changed none of them.
        where: A callable or its dotted path. Drops an event for which it returns a
            false value. It is the only condition that applies to TRUNCATE.
        sensitive_fields: Names of fields whose values are hidden in the admin, in logs
            and in the output of commands. They drop no events.
    """

    unwatched_records: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unwatched_fields: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    where: Where | str | None = None
    sensitive_fields: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.unwatched_records
            or self.unwatched_fields
            or self.changed
            or self.where is not None
        )

    def for_table(self, table: Table) -> TableFilter | None:
        """Return the filter for a table's rows, or `None` if it drops none of them."""
        return TableFilter(self, table) if self else None

    def sensitive_columns(self, table: Table) -> frozenset[str]:
        """Return the names of a table's sensitive columns."""
        indexes = [_index(table, name) for name in self.sensitive_fields]
        return frozenset(
            table.column_names[index] for index in indexes if index is not None
        )

    def require_fields(self, model: type[Model]) -> None:
        """
        Check that a model has the filter's fields, and that they accept its values.

        Raises:
            ImproperlyConfigured: If it lacks a field, or a value is invalid.
        """
        for name in (
            *self.unwatched_records,
            *(*self.unwatched_fields, *self.changed, *self.sensitive_fields),
        ):
            if name not in _field_names(model):
                raise ImproperlyConfigured(
                    f"{model._meta.label} has no field {name!r}; its fields are"
                    f" {', '.join(_field_names(model))}."
                )
        for name, value in self.unwatched_records.items():
            try:
                _field_value(model, name, value)
            except Exception as error:
                if hasattr(_field(model, name), "from_db_value"):
                    continue  # to_python() need not accept what from_db_value() returns
                raise ImproperlyConfigured(
                    f"{value!r} is not a valid value for {model._meta.label}.{name}:"
                    f" {error}"
                ) from error

    def condition(self) -> Where | None:
        """
        Return ``where`` as a callable.

        Raises:
            ImproperlyConfigured: If it can't be imported.
        """
        if not isinstance(self.where, str):
            return self.where
        try:
            where: Where = import_string(self.where)
        except ImportError as error:
            raise ImproperlyConfigured(f"where: {error}") from error
        return where


class TableFilter:
    """
    A filter applied to the rows of one table.

    Args:
        filter_: The filter.
        table: The table as the server described it.
    """

    def __init__(self, filter_: Filter, table: Table) -> None:
        self.where = filter_.condition()
        self._table = table
        self._pairs = [
            _Pair(table, name, value)
            for name, value in filter_.unwatched_records.items()
        ]
        self._watched = self._changed = None
        if filter_.unwatched_fields:
            unwatched = {_index(table, name) for name in filter_.unwatched_fields}
            indexes = range(len(table.columns))
            self._watched = _Columns(
                table, [index for index in indexes if index not in unwatched]
            )
        changed = [_index(table, name) for name in filter_.changed]
        # A column that the server does not send may have changed.
        if changed and None not in changed:
            self._changed = _Columns(table, [i for i in changed if i is not None])

    def drops(self, message: RowMessage | Truncate) -> bool:
        """Return whether a row is dropped by any condition other than ``where``."""
        if isinstance(message, Truncate):
            return False
        if self._pairs and self._is_unwatched(message):
            return True
        if type(message) is Update:
            for columns in (self._watched, self._changed):
                if columns is not None and columns.are_unchanged(message):
                    return True
        return False

    def passes(self, event: Event) -> bool:
        """Return whether an event passes the filter. It does if ``where`` raises."""
        return not self.drops(event._message) and self.holds(event)

    def holds(self, event: Event) -> bool:
        """Return whether ``where`` accepts an event. An error counts as yes."""
        if self.where is None:
            return True
        try:
            return bool(self.where(event))
        except Exception as error:
            details, exc_info = masking.of_events([event]).log(error)
            logger.error(  # noqa: TRY400 - the traceback may contain sensitive values
                "The filter's where failed for %s; delivering the event%s",
                *(event.id, details),
                exc_info=exc_info,
                extra={"event_id": event.id, "table": str(event._table.name)},
            )
            return True

    def _is_unwatched(self, message: RowMessage) -> bool:
        table = self._table
        row = table.new_row(message) or table.old_row(message)
        return row is not None and all(pair.matches(row) for pair in self._pairs)


class _Pair:
    """A field and the value that is not watched."""

    def __init__(self, table: Table, name: str, value: Any) -> None:
        self._index = _index(table, name)
        self._table, self._values = table, [value]
        if table.model is not None and name in _field_names(table.model):
            # The filter may be for several models, and the value for another of them.
            with suppress(Exception):
                self._values.append(_field_value(table.model, name, value))
        self._cache: dict[Value, bool] = {}

    def matches(self, row: Row) -> bool:
        if self._index is None or (text := row[self._index]) is UNCHANGED:
            return False
        matches = self._cache.get(text)
        if matches is None:
            matches = self._table.field_value(self._index, text) in self._values
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            if not isinstance(text, bytes) or len(text) <= _MAX_CACHED_LENGTH:
                self._cache[text] = matches
        return matches


class _Columns:
    """Columns that are checked for changes by an UPDATE."""

    def __init__(self, table: Table, indexes: Sequence[int]) -> None:
        self._table, self._indexes = table, indexes
        self._pick = itemgetter(*indexes) if indexes else len

    def are_unchanged(self, message: Update) -> bool:
        """Return whether none of them changed, as far as the server reports it."""
        new, old, key = message.new, message.old, message.key
        sent = key if old is None else old
        if self._table.partition_keys and sent is not None:
            is_whole = self._table.is_whole(sent)
            old, key = (sent, None) if is_whole else (None, sent)
        if old is not None:
            if self._pick(new) == self._pick(old):
                return True
            return type(new) is PartialRow and all(
                new[index] is UNCHANGED or new[index] == old[index]
                for index in self._indexes
            )
        # There is no old row. The server sends the old key only if the key changed.
        known = self._table.known_unchanged(key)
        return all(
            new[index] is UNCHANGED
            or (index in known and (key is None or key[index] == new[index]))
            for index in self._indexes
        )


def _index(table: Table, name: str) -> int | None:
    """Return the index of the column with a field's or column's name."""
    if table.model is not None and (column := _field_names(table.model).get(name)):
        name = column
    try:
        return table.column_names.index(name)
    except ValueError:
        return None


def _field_names(model: type[Model]) -> dict[str, str]:
    """Return the columns of a model's own fields, by every name of the field."""
    fields = column_fields(model)
    names = {column: column for column in fields}
    # A field's name takes precedence over the same name of another field's column.
    for kind in ("attname", "name"):
        names |= {getattr(field, kind): column for column, field in fields.items()}
    return names


def _field(model: type[Model], name: str) -> Field[Any, Any]:
    return column_fields(model)[_field_names(model)[name]]


def _field_value(model: type[Model], name: str, value: Any) -> Any:
    """Convert a value to the type that the field's values have on instances."""
    if value is None:
        return None
    field = _field(model, name)
    if isinstance(field, ForeignKey) and isinstance(value, Model):
        value = getattr(value, field.target_field.attname)
    value = field.to_python(value)
    if settings.USE_TZ and isinstance(value, datetime) and timezone.is_naive(value):
        value = timezone.make_aware(value)  # as the ORM does
    return value


def matches(event: Event, relation: str = "*", type: str = "*") -> bool:
    """
    Return whether an event is for a certain table and has a certain type.

    Args:
        event: The event.
        relation: ``"schema:table"``, ``"schema"`` for all of its tables, or ``"*"``.
        type: ``"insert"``, ``"update"``, ``"delete"``, ``"truncate"``, or ``"*"``.

    Raises:
        ValueError: If the relation has more than two parts, or the type is unknown.

    Source: WalEx, ``WalEx.TransactionFilter.matches?/2``.
    """
    schema, _, table = relation.partition(":")
    if ":" in table:
        raise ValueError(f"relation must be 'schema:table', not {relation!r}")
    if type not in _TYPES:
        choices = ", ".join(sorted(_TYPES))
        raise ValueError(f"type must be one of {choices}, not {type!r}")
    return (
        schema in {"", "*", event.source.schema}
        and table in {"", "*", event.source.table}
        and type in {"*", event.type}
    )


_TYPES = {"*", "insert", "update", "delete", "truncate"}


def select(
    events: Iterable[Event], relation: str = "*", type: str = "*"
) -> list[Event]:
    """
    Return the events of a certain table and type, in order.

    Args:
        events: The events.
        relation: A relation as `matches` takes it.
        type: A type as `matches` takes it.

    Source: WalEx, ``WalEx.TransactionFilter.filter_changes/4``.
    """
    return [event for event in events if matches(event, relation, type)]
