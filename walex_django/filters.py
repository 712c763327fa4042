"""Which changes a stream delivers, and which of them a handler gets."""

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

_MEMORY = 1000  # values of which a pair remembers whether they are its own
_MEMORABLE = 100  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """
    Which events of a table are not wanted; what the server did not say, is.

    Attributes:
        unwatched_records: values by field, or by column: an event whose new row, of a
            DELETE the old one, has them all.
        unwatched_fields: an UPDATE that changed nothing but these.
        changed: an UPDATE that changed none of these.
        where: a callable, or its dotted path; an event for which it returns what is
            not true. A TRUNCATE is asked for by this only.
        sensitive_fields: whose values are not shown in the admin, in logs and by
            commands. They filter nothing.
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
        """Return what it means for a table's rows; `None` where it lets all pass."""
        return TableFilter(self, table) if self else None

    def sensitive_columns(self, table: Table) -> frozenset[str]:
        """Return the sensitive ones of a table's columns."""
        places = [_place(table, name) for name in self.sensitive_fields]
        return frozenset(
            table.column_names[place] for place in places if place is not None
        )

    def require_fields(self, model: type[Model]) -> None:
        """
        Check the names, and the values.

        Raises:
            ImproperlyConfigured: the model has no such field, or no such value.
        """
        for name in (
            *self.unwatched_records,
            *(*self.unwatched_fields, *self.changed, *self.sensitive_fields),
        ):
            if name not in _field_names(model):
                raise ImproperlyConfigured(
                    f"{model._meta.label} has no field {name!r}; it has"
                    f" {', '.join(_field_names(model))}."
                )
        for name, value in self.unwatched_records.items():
            try:
                _as_field_has_it(model, name, value)
            except Exception as error:
                if hasattr(_field(model, name), "from_db_value"):
                    continue  # its values need not be what it makes of others
                raise ImproperlyConfigured(
                    f"{value!r} is no value of {model._meta.label}.{name}: {error}"
                ) from error

    def condition(self) -> Where | None:
        """
        Return ``where`` as a callable.

        Raises:
            ImproperlyConfigured: there is nothing at its path.
        """
        if not isinstance(self.where, str):
            return self.where
        try:
            found: Where = import_string(self.where)
        except ImportError as error:
            raise ImproperlyConfigured(f"where: {error}") from error
        return found


class TableFilter:
    """
    A filter, for the rows of one table.

    Args:
        chosen: the filter.
        table: as the server described it.
    """

    def __init__(self, chosen: Filter, table: Table) -> None:
        self.where = chosen.condition()
        self._table = table
        self._pairs = [
            _Pair(table, name, value)
            for name, value in chosen.unwatched_records.items()
        ]
        self._watched = self._changed = None
        if chosen.unwatched_fields:
            unwatched = {_place(table, name) for name in chosen.unwatched_fields}
            every = range(len(table.columns))
            self._watched = _Places(
                table, [place for place in every if place not in unwatched]
            )
        changed = [_place(table, name) for name in chosen.changed]
        # Of a column that does not come, nobody knows whether it has changed.
        if changed and None not in changed:
            self._changed = _Places(table, [p for p in changed if p is not None])

    def drops(self, message: RowMessage | Truncate) -> bool:
        """Return whether a row is unwanted whatever ``where`` says of its event."""
        if isinstance(message, Truncate):
            return False
        if self._pairs and self._is_unwatched(message):
            return True
        if type(message) is Update:
            for places in (self._watched, self._changed):
                if places is not None and places.are_same(message):
                    return True
        return False

    def passes(self, event: Event) -> bool:
        """Return whether an event is wanted; it is where ``where`` raises."""
        return not self.drops(event._message) and self.holds(event)

    def holds(self, event: Event) -> bool:
        """Return what ``where`` says of an event."""
        if self.where is None:
            return True
        try:
            return bool(self.where(event))
        except Exception as error:
            told, exc_info = masking.of_events([event]).log(error)
            logger.error(  # noqa: TRY400 - the traceback may tell what is sensitive
                "The filter's where failed at %s: the event is delivered%s",
                *(event.id, told),
                exc_info=exc_info,
                extra={"event_id": event.id, "table": str(event._table.name)},
            )
            return True

    def _is_unwatched(self, message: RowMessage) -> bool:
        table = self._table
        row = table.new_row(message) or table.old_row(message)
        return row is not None and all(pair.matches(row) for pair in self._pairs)


class _Pair:
    """A field with a value that is not watched."""

    def __init__(self, table: Table, name: str, value: Any) -> None:
        self._place = _place(table, name)
        self._table, self._values = table, [value]
        if table.model is not None and name in _field_names(table.model):
            with suppress(Exception):  # of another model's field of that name it is one
                self._values.append(_as_field_has_it(table.model, name, value))
        self._known: dict[Value, bool] = {}

    def matches(self, row: Row) -> bool:
        if self._place is None or (text := row[self._place]) is UNCHANGED:
            return False
        known = self._known.get(text)
        if known is None:
            known = self._table.field_value(self._place, text) in self._values
            if len(self._known) >= _MEMORY:
                self._known.clear()
            if not isinstance(text, bytes) or len(text) <= _MEMORABLE:
                self._known[text] = known
        return known


class _Places:
    """Columns of which it is asked whether an UPDATE has changed any."""

    def __init__(self, table: Table, places: Sequence[int]) -> None:
        self._places, self._is_whole = places, table.is_whole
        self._keys = {place for place in places if table.columns[place].is_key}
        self._pick = itemgetter(*places) if places else len

    def are_same(self, message: Update) -> bool:
        """Return whether the server said that none has changed."""
        new, old, key = message.new, message.old, message.key
        if not self._is_whole:
            return all(new[place] is UNCHANGED for place in self._places)
        if old is not None:
            if self._pick(new) == self._pick(old):
                return True
            return type(new) is PartialRow and all(
                new[place] is UNCHANGED or new[place] == old[place]
                for place in self._places
            )
        # Without the old row: an old key is sent where it was another.
        return all(
            new[place] is UNCHANGED
            or (place in self._keys and (key is None or key[place] == new[place]))
            for place in self._places
        )


def _place(table: Table, name: str) -> int | None:
    """Return the place of a field's column, or of the column of that name."""
    if table.model is not None and (found := _field_names(table.model).get(name)):
        name = found
    try:
        return table.column_names.index(name)
    except ValueError:
        return None


def _field_names(model: type[Model]) -> dict[str, str]:
    """Return the columns of a model's own fields, by all names that these have."""
    fields = column_fields(model)
    names = {column: column for column in fields}
    # Where a column is called as another field is, the field is meant.
    for kind in ("attname", "name"):
        names |= {getattr(each, kind): column for column, each in fields.items()}
    return names


def _field(model: type[Model], name: str) -> Field[Any, Any]:
    return column_fields(model)[_field_names(model)[name]]


def _as_field_has_it(model: type[Model], name: str, value: Any) -> Any:
    if value is None:
        return None
    field = _field(model, name)
    if isinstance(field, ForeignKey) and isinstance(value, Model):
        value = getattr(value, field.target_field.attname)
    value = field.to_python(value)
    if settings.USE_TZ and isinstance(value, datetime) and timezone.is_naive(value):
        value = timezone.make_aware(value)  # as the ORM would
    return value


def matches(event: Event, relation: str = "*", type: str = "*") -> bool:
    """
    Return whether an event is of a table and a type.

    Args:
        event: of a table.
        relation: ``"schema:table"``, ``"schema"`` for all of its tables, or ``"*"``.
        type: ``"insert"``, ``"update"``, ``"delete"``, ``"truncate"``, or ``"*"``.

    Raises:
        ValueError: the relation has more than two parts, or there is no such type.

    Source: WalEx, ``WalEx.TransactionFilter.matches?/2``.
    """
    schema, _, table = relation.partition(":")
    if ":" in table:
        raise ValueError(f"not 'schema:table': {relation!r}")
    if type not in _TYPES:
        raise ValueError(f"not one of {', '.join(sorted(_TYPES))}: {type!r}")
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
    Return the events of a table and a type, in order; arguments as of `matches`.

    Source: WalEx, ``WalEx.TransactionFilter.filter_changes/4``.
    """
    return [event for event in events if matches(event, relation, type)]
