"""Parked events as they are shown: without the values of sensitive fields."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError

from walex_django.conf import stored
from walex_django.conf.configs import get_config
from walex_django.events import masking
from walex_django.events.catalogue import ModelTables
from walex_django.events.event import Event
from walex_django.events.masking import MASK, Mask
from walex_django.filters import Filter
from walex_django.models import ParkedEvent
from walex_django.replication.publications import TableName
from walex_django.subscriptions import Subscriptions

MAX_CHARACTERS: Final = 1000
"""Of a value or an error, as it is shown."""

MAX_TRACEBACK: Final = 20_000
"""Characters of a traceback: its end tells more than its beginning."""

MAX_EVENTS: Final = 50
"""Of one call, as they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """
    A text as it is shown.

    Attributes:
        text: perhaps its beginning only.
        kind: ``"value"``, ``"null"``, ``"unsent"``, ``"absent"`` or ``"hidden"``.
        length: of the whole text, if this is not all of it; else 0.
    """

    text: str = ""
    kind: str = "value"
    length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownColumn:
    """A column of an event; whether it has changed, if the server said so."""

    name: str
    type: str
    old: Shown
    new: Shown
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEvent:
    """
    An event of a parked call.

    Attributes:
        data: what `Event.as_dict` said.
        columns: with their values.
        context: who made the change, and why, as JSON.
    """

    data: Mapping[str, Any]
    columns: Sequence[ShownColumn]
    context: Shown | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownMessage:
    """A logical message of a parked call."""

    prefix: str
    lsn: str
    content: Shown


class ParkedDisplay:
    """
    Shows parked events to people, of whatever streams.

    What is sensitive, the settings say as they are now. Of a stream that they lack
    nobody can tell: all of its values are hidden. So are those of an event that cannot
    be read any more.

    What it has found out, it remembers: make one for each page.
    """

    def __init__(self) -> None:
        self._filters: dict[str, Mapping[str, Filter] | None] = {}
        self._models: dict[str, ModelTables] = {}
        self._columns: dict[tuple[object, ...], frozenset[str]] = {}

    def mask(self, parked: ParkedEvent) -> Mask:
        """Return what hides the sensitive values of a call, as of its error."""
        filters = self._sensitive(parked.stream)
        if filters is not None and not filters:
            return Mask()
        values: list[Any] = []
        arguments = parked.arguments
        for data in _events(arguments):
            names = self._sensitive_columns(parked.stream, data)
            values += _written(data, names)
            if names and (event := _event(data)):
                values += masking.values(event, names)
        if filters is None and "message" in arguments:
            values.append(_content(arguments["message"]))
        return Mask(values, is_needed=True)

    def is_known(self, parked: ParkedEvent) -> bool:
        """Return whether the settings have its stream."""
        return self._sensitive(parked.stream) is not None

    def events(self, parked: ParkedEvent) -> list[ShownEvent]:
        """Return the events of a call, or the first of them."""
        return [
            self._shown_event(parked.stream, data)
            for data in _events(parked.arguments)[:MAX_EVENTS]
        ]

    def message(self, parked: ParkedEvent) -> ShownMessage | None:
        """Return the logical message of a call, if it is about one."""
        message = parked.arguments.get("message")
        if message is None:
            return None
        known = self._sensitive(parked.stream) is not None
        return ShownMessage(
            prefix=message["prefix"],
            lsn=message["lsn"],
            content=cut(_content(message)) if known else _HIDDEN,
        )

    def _shown_event(self, stream: str, data: Mapping[str, Any]) -> ShownEvent:
        hidden = self._sensitive_columns(stream, data)
        known = self._sensitive(stream) is not None
        changes = data["changes"] or {}
        columns = [
            ShownColumn(
                name=name,
                type=type,
                old=_HIDDEN
                if name in hidden and _has(data, "old_record", name)
                else _shown(data, "old_record", name),
                new=_HIDDEN
                if name in hidden and _has(data, "new_record", name)
                else _shown(data, "new_record", name),
                changed=name in changes,
            )
            for name, type in data["source"]["columns"].items()
        ]
        context = None
        if data["context"]:
            text = json.dumps(data["context"], ensure_ascii=False, indent=2)
            context = cut(text) if known else _HIDDEN
        return ShownEvent(
            data=data,
            columns=columns if data["type"] != "truncate" else [],
            context=context,
        )

    def _sensitive(self, stream: str) -> Mapping[str, Filter] | None:
        """Return the filters of a stream with sensitive fields; `None`: unknown."""
        if stream not in self._filters:
            try:
                filters = stored.refreshed(get_config(stream)).filters
            except (ImproperlyConfigured, DatabaseError):
                self._filters[stream] = None
            else:
                self._filters[stream] = {
                    entry: chosen
                    for entry, chosen in filters.items()
                    if chosen.sensitive_fields
                }
        return self._filters[stream]

    def _sensitive_columns(
        self, stream: str, data: Mapping[str, Any]
    ) -> frozenset[str]:
        filters = self._sensitive(stream)
        if filters is not None and not filters:
            return frozenset()
        source = data["source"]
        every = frozenset(source["columns"])
        place = source["db"], source["schema"], source["table"]
        key = (stream, data["model"], every, *place)
        if key not in self._columns:
            found = None
            if filters is not None and (event := _event(data)):
                found = self._find_columns(filters, event)
            self._columns[key] = every if found is None else found
        return self._columns[key]

    def _find_columns(
        self, filters: Mapping[str, Filter], event: Event
    ) -> frozenset[str] | None:
        """Return the sensitive columns of an event's table, if that can be told."""
        table = event._table
        models = self._models.setdefault(table.alias, ModelTables(table.alias))
        name = TableName(*table.name)
        try:
            lineage = models.lineages([name])[name]
        except DatabaseError:
            return None
        if table.model:
            lineage = replace(lineage, models=lineage.models | {table.model})
        return frozenset(
            column
            for entry, chosen in filters.items()
            # A table that is gone may have been named as it was called later.
            if not lineage.exists or Subscriptions([entry]).cover(lineage)
            for column in chosen.sensitive_columns(table)
        )


def cut(text: str, most: int = MAX_CHARACTERS) -> Shown:
    """Return the beginning of a text."""
    return Shown(text=text[:most], length=len(text) if len(text) > most else 0)


def cut_traceback(text: str) -> Shown:
    """Return the end of a traceback."""
    length = len(text) if len(text) > MAX_TRACEBACK else 0
    return Shown(text=text[-MAX_TRACEBACK:], length=length)


_HIDDEN = Shown(text=MASK, kind="hidden")


def count_events(parked: ParkedEvent) -> int:
    """Return how many events a call has."""
    return len(_events(parked.arguments))


def _events(arguments: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "event" in arguments:
        return [arguments["event"]]
    return list(arguments.get("events", ()))


def _event(data: Mapping[str, Any]) -> Event | None:
    try:
        return Event.from_dict(data)
    except ValueError:
        return None


def _written(data: Mapping[str, Any], names: frozenset[str]) -> Iterator[Any]:
    """Return the values of columns as JSON has them."""
    for record in ("old_record", "new_record"):
        for values in (data[record] or {}, data["exact"][record]):
            yield from (value for name, value in values.items() if name in names)


def _has(data: Mapping[str, Any], record: str, name: str) -> bool:
    return data[record] is not None and name in data[record]


def _shown(data: Mapping[str, Any], record: str, name: str) -> Shown:
    if not _has(data, record, name):
        unsent = record == "new_record" and data["new_record"] is not None
        return Shown(kind="unsent" if unsent else "absent")
    value = data[record][name]
    exact = data["exact"][record].get(name)
    if exact is not None:
        return cut(exact)
    if value is None:
        return Shown(kind="null")
    if isinstance(value, str):
        return cut(value)
    return cut(json.dumps(value, ensure_ascii=False))


def _content(message: Mapping[str, Any]) -> str:
    return base64.b64decode(message["content"]).decode(errors="backslashreplace")
