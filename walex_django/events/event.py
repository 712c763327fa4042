"""The event that receivers get for each changed row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import psycopg
from django.db.models import Model
from django.utils.connection import ConnectionDoesNotExist

from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import (
    UNCHANGED,
    Begin,
    Row,
    RowMessage,
    Truncate,
    Update,
)

from . import json_form
from .table import Source, Table


class EventType(StrEnum):
    """The operation on the row, or with TRUNCATE on the table."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"

    # Enum's own is implemented in Python and too slow to run for each event.
    __hash__ = str.__hash__


class Change(NamedTuple):
    """A column's values before and after the change."""

    old_value: Any
    new_value: Any


@dataclass(slots=True)
class BeginWithContext(Begin):
    """
    The start of a transaction with a context.

    Attributes:
        context: The context that the writer attached; see `walex_django.context`.
    """

    context: dict[str, Any]


class Event:
    """
    A change of one row, or the TRUNCATE of one table.

    Values are loaded on first access. The attributes follow those of WalEx's
    ``WalEx.Event``.

    Attributes:
        type: The operation.
        ordinal: The position of the change in its transaction, starting at 1.
        model: The concrete model of the table, or `None`.
    """

    __slots__ = (
        "_begin",
        "_instance",
        "_message",
        "_new_record",
        "_old_instance",
        "_old_record",
        "_table",
        "ordinal",
        "type",
    )

    def __init__(
        self,
        type: EventType,
        table: Table,
        begin: Begin,
        message: RowMessage | Truncate,
        ordinal: int,
    ) -> None:
        self.type = type
        self.ordinal = ordinal
        self._table = table
        self._begin = begin
        self._message = message
        self._new_record: dict[str, Any] | None = None
        self._old_record: dict[str, Any] | None = None
        self._instance: Model | None = None
        self._old_instance: Model | None = None

    def __repr__(self) -> str:
        return f"<Event {self.id} {self.type} {self._table.name}>"

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same change, even from separate deliveries."""
        return (
            isinstance(other, Event)
            and (self.id, self.type) == (other.id, other.type)
            and self.source == other.source
        )

    def __hash__(self) -> int:
        return hash((self._begin.commit_lsn, self.ordinal))

    def __copy__(self) -> Event:
        """Return an equal event with records and instances of its own."""
        begin = self._begin
        if isinstance(begin, BeginWithContext):
            begin = replace(begin, context=deepcopy(begin.context))
        return Event(self.type, self._table, begin, self._message, self.ordinal)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle the JSON form instead of messages and loaders.
        return _from_json, (self.as_json(),)

    @property
    def name(self) -> str:
        """The table's name without its schema."""
        return self._table.name.name

    @property
    def source(self) -> Source:
        """The origin of the event."""
        return self._table.source

    @property
    def model(self) -> type[Model] | None:
        """The concrete model of the table, or `None` if it has none."""
        return self._table.model

    @property
    def timestamp(self) -> datetime:
        """The commit time of the transaction, as an aware datetime in UTC."""
        return self._begin.timestamp

    @property
    def lsn(self) -> Lsn:
        """The position of the transaction's COMMIT in the WAL."""
        return self._begin.commit_lsn

    @property
    def xid(self) -> int:
        """The 32-bit transaction ID; PostgreSQL reuses IDs eventually."""
        return self._begin.xid

    @property
    def id(self) -> str:
        """The event's ID, the same for each delivery, such as ``"0/16B3748:3"``."""
        return f"{self._begin.commit_lsn}:{self.ordinal}"

    @property
    def context(self) -> dict[str, Any] | None:
        """The context that was set with `walex_django.context`, or `None`."""
        # An empty context revokes an earlier one.
        return (
            isinstance(self._begin, BeginWithContext) and self._begin.context
        ) or None

    @property
    def new_record(self) -> dict[str, Any] | None:
        """
        The new row by column; `None` for DELETE and TRUNCATE.

        An unchanged TOASTed value is `UNCHANGED`, unless the table has REPLICA IDENTITY
        FULL.
        """
        if self._new_record is None and (row := self._new_row()) is not None:
            self._new_record = self._table.record(row)
        return self._new_record

    @property
    def old_record(self) -> dict[str, Any] | None:
        """
        The part of the old row that the server sent, by column.

        With REPLICA IDENTITY FULL this is the complete row. Otherwise it is the key for
        DELETE and for an UPDATE that changed the key, and `None` in all other cases.
        """
        if self._old_record is None and (row := self._old_row()) is not None:
            self._old_record = {
                name: value
                for name, value in self._table.record(row).items()
                if value is not UNCHANGED
            }
        return self._old_record

    @property
    def changes(self) -> dict[str, Change] | None:
        """
        The changes that an UPDATE made, by column; `{}` if it made none.

        `None` for other types, and if the table doesn't have REPLICA IDENTITY FULL,
        because then the old values are unknown.
        """
        message = self._message
        if not isinstance(message, Update) or message.old is None:
            return None
        table, old, new = self._table, message.old, self._new_row()
        if not table.is_whole(old):
            return None
        assert new is not None
        return {
            name: Change(table.value(place, old), table.value(place, new))
            for place, name in enumerate(table.column_names)
            # Settings that affect the text are pinned: equal texts mean equal values.
            if new[place] != old[place]
        }

    @property
    def unchanged(self) -> tuple[str, ...]:
        """The columns of the new row whose TOASTed value wasn't sent."""
        if not isinstance(self._message, Update):
            return ()
        row = self._new_row()
        assert row is not None
        return tuple(
            name
            for name, value in zip(self._table.column_names, row, strict=True)
            if value is UNCHANGED
        )

    @property
    def instance(self) -> Model | None:
        """
        The new row, or for DELETE the deleted one, as an instance of `model`.

        It is created as the ORM does, with ``_state.db`` set. Fields whose value wasn't
        sent are deferred. `None` for TRUNCATE and if the table has no model.
        """
        if self._instance is None:
            if self.type is EventType.DELETE:
                return self.old_instance
            if (row := self._new_row()) is not None:
                self._instance = self._table.instance(row)
        return self._instance

    @property
    def old_instance(self) -> Model | None:
        """The old row as an instance; fields missing from `old_record` are deferred."""
        if self._old_instance is None and (row := self._old_row()) is not None:
            self._old_instance = self._table.instance(row)
        return self._old_instance

    @property
    def cascade(self) -> bool:
        """Whether the TRUNCATE used CASCADE."""
        return isinstance(self._message, Truncate) and self._message.cascade

    @property
    def restart_identity(self) -> bool:
        """Whether the TRUNCATE used RESTART IDENTITY."""
        return isinstance(self._message, Truncate) and self._message.restart_identity

    def as_dict(self) -> dict[str, Any]:
        """
        Return the event as JSON-serializable values, for queues and webhooks.

        Numbers, booleans, text, JSON and arrays of them are kept as they are. Other
        values become their text in PostgreSQL, such as ``"12.50"`` or
        ``"2026-11-22 10:00:00+00"``. If the text carries more information than the
        value, as ``1.10`` in JSON does, it is included in ``exact``.
        """
        old, old_exact = json_form.dump_row(self._table, self._old_row())
        new, new_exact = json_form.dump_row(self._table, self._new_row())
        changes = None
        if self.changes is not None and old and new:
            changes = {
                name: {"old_value": old[name], "new_value": new[name]}
                for name in self.changes
            }
        return {
            "id": self.id,
            "type": str(self.type),
            "name": self.name,
            "model": self.model._meta.label if self.model else None,
            "source": self.source.as_dict(),
            "types": json_form.dump_types(self._table),
            "new_record": new,
            "old_record": old,
            "exact": {"new_record": new_exact, "old_record": old_exact},
            "changes": changes,
            "unchanged": list(self.unchanged),
            "timestamp": self.timestamp.isoformat(),
            "lsn": str(self.lsn),
            "xid": self.xid,
            "ordinal": self.ordinal,
            "cascade": self.cascade,
            "restart_identity": self.restart_identity,
            "context": self.context,
        }

    def as_json(self) -> str:
        """Return the result of `as_dict` as JSON."""
        return json.dumps(self.as_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """
        Restore an event, equal in all its values, from the result of `as_dict`.

        Raises:
            ValueError: The data isn't a result of `as_dict`.
        """
        try:
            table, begin, message = json_form.restore(data)
            if (context := data["context"]) is not None:
                begin = BeginWithContext(
                    begin.commit_lsn, begin.timestamp, begin.xid, dict(context)
                )
            return cls(EventType(data["type"]), table, begin, message, data["ordinal"])
        except (
            *(LookupError, TypeError, AttributeError),
            *(psycopg.Error, ConnectionDoesNotExist),
        ) as error:
            raise ValueError(
                f"not a dict returned by Event.as_dict(): {error!r}"
            ) from error

    def _old_row(self) -> Row | None:
        return self._table.old_row(self._message)

    def _new_row(self) -> Row | None:
        return self._table.new_row(self._message)


def _from_json(text: str) -> Event:
    # The json module supports deeper nesting than pickle does.
    return Event.from_dict(json.loads(text))
