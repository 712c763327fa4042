"""What receivers get: one event for each changed row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    """What was done to the row, or with TRUNCATE to the table."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"

    # The enum's own is Python code, and runs for each event.
    __hash__ = str.__hash__


class Change(NamedTuple):
    """A column's values before and after."""

    old_value: Any
    new_value: Any


@dataclass(slots=True)
class BeginWithContext(Begin):
    """
    A transaction whose writer attached a context.

    Attributes:
        context: What the writer attached; see `walex_django.context`.
    """

    context: dict[str, Any]


class Event:
    """
    A change of one row, or the TRUNCATE of one table.

    Values are loaded when they are first asked for. The attributes follow WalEx's
    ``WalEx.Event``; what only walex_django has says so.

    Attributes:
        type: what was done.
        ordinal: place of the change in its transaction, from 1.
        model: the concrete model of the table, or `None`.
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
        """Return whether it is the same change, perhaps delivered another time."""
        return (
            isinstance(other, Event)
            and (self.id, self.type) == (other.id, other.type)
            and self.source == other.source
        )

    def __hash__(self) -> int:
        return hash((self._begin.commit_lsn, self.ordinal))

    def __reduce__(self) -> tuple[Any, ...]:
        # Messages and loaders stay here: what travels is what JSON has.
        return _from_json, (self.as_json(),)

    @property
    def name(self) -> str:
        """Name of the table, without its schema."""
        return self._table.name.name

    @property
    def source(self) -> Source:
        """Where it comes from."""
        return self._table.source

    @property
    def model(self) -> type[Model] | None:
        """The concrete model of the table, or `None` where it has none."""
        return self._table.model

    @property
    def timestamp(self) -> datetime:
        """When the transaction committed: aware, in UTC."""
        return self._begin.timestamp

    @property
    def lsn(self) -> Lsn:
        """Position of the transaction's COMMIT in the log."""
        return self._begin.commit_lsn

    @property
    def xid(self) -> int:
        """Id of the transaction, of 32 bits: they are used again after a while."""
        return self._begin.xid

    @property
    def id(self) -> str:
        """The same whenever this change is delivered: ``"0/16B3748:3"``."""
        return f"{self._begin.commit_lsn}:{self.ordinal}"

    @property
    def context(self) -> dict[str, Any] | None:
        """Who made the change, and why, if that was said: `walex_django.context`."""
        # An empty one says that what was said no longer holds.
        return (
            isinstance(self._begin, BeginWithContext) and self._begin.context
        ) or None

    @property
    def new_record(self) -> dict[str, Any] | None:
        """
        The new row, by column; `None` for DELETE and TRUNCATE.

        A TOASTed value that did not change is `UNCHANGED`, unless the table has
        REPLICA IDENTITY FULL.
        """
        if self._new_record is None and (row := self._new_row()) is not None:
            self._new_record = self._table.record(row)
        return self._new_record

    @property
    def old_record(self) -> dict[str, Any] | None:
        """
        What the server sent of the old row, by column.

        All of it under REPLICA IDENTITY FULL; else the key, for DELETE and for an
        UPDATE that changed the key; else `None`.
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
        What an UPDATE changed, by column; `{}` if nothing.

        `None` for other types, and where the server did not say: it does under
        REPLICA IDENTITY FULL only.
        """
        message = self._message
        if not isinstance(message, Update) or message.old is None:
            return None
        table, old, new = self._table, message.old, self._new_row()
        if not table.is_whole:
            return None
        assert new is not None
        return {
            name: Change(table.value(place, old), table.value(place, new))
            for place, name in enumerate(table.column_names)
            # Settings that shape the text are pinned: same text, same value.
            if new[place] != old[place]
        }

    @property
    def unchanged(self) -> tuple[str, ...]:
        """Columns of the new row whose TOASTed value was not sent."""
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
        The row as an instance of `model`: the new one, for DELETE the deleted one.

        Made as the ORM does, with ``_state.db`` set. Fields whose value did not come
        are deferred. `None` for TRUNCATE and where the table has no model.
        """
        if self._instance is None:
            if self.type is EventType.DELETE:
                return self.old_instance
            if (row := self._new_row()) is not None:
                self._instance = self._table.instance(row)
        return self._instance

    @property
    def old_instance(self) -> Model | None:
        """The old row as an instance: what `old_record` lacks is deferred."""
        if self._old_instance is None and (row := self._old_row()) is not None:
            self._old_instance = self._table.instance(row)
        return self._old_instance

    @property
    def cascade(self) -> bool:
        """Whether TRUNCATE said CASCADE."""
        return isinstance(self._message, Truncate) and self._message.cascade

    @property
    def restart_identity(self) -> bool:
        """Whether TRUNCATE said RESTART IDENTITY."""
        return isinstance(self._message, Truncate) and self._message.restart_identity

    def as_dict(self) -> dict[str, Any]:
        """
        Return the event as values that `json.dumps` takes, for queues and webhooks.

        Numbers, booleans, text, JSON and arrays of them are themselves, whatever else
        is its text in PostgreSQL: ``"12.50"``, ``"2026-11-22 10:00:00+00"``. Where
        the text says more than the value, as of ``1.10`` in JSON, it is in ``exact``.
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
        """Return `as_dict` as JSON."""
        return json.dumps(self.as_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """
        Return the event that `as_dict` was called on: equal in all its values.

        Raises:
            ValueError: the data did not come from there.
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
            raise ValueError(f"not the dict of an event: {error!r}") from error

    def _old_row(self) -> Row | None:
        return self._table.old_row(self._message)

    def _new_row(self) -> Row | None:
        return self._table.new_row(self._message)


def _from_json(text: str) -> Event:
    # Which takes deeper JSON than pickle does.
    return Event.from_dict(json.loads(text))
