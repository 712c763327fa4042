"""Display of parked events, with the values of sensitive fields masked."""

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
"""The maximum length of a value or an error, in characters."""

MAX_TRACEBACK: Final = 20_000
"""The maximum length of a traceback, of which the end is shown."""

MAX_EVENTS: Final = 50
"""The maximum number of events of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayValue:
    """
    A displayed value, error or traceback.

    Attributes:
        text: The text, possibly truncated.
        kind: ``"value"``, ``"null"``, ``"unsent"``, ``"absent"`` or ``"hidden"``.
        length: The length of the whole text if it is truncated, otherwise 0.
    """

    text: str = ""
    kind: str = "value"
    length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayColumn:
    """
    A column of an event.

    Attributes:
        name: The name of the column.
        type: The name of its type.
        old: The old value.
        new: The new value.
        changed: Whether the value is known to have changed.
    """

    name: str
    type: str
    old: DisplayValue
    new: DisplayValue
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayEvent:
    """
    An event of a parked call.

    Attributes:
        data: The event, as `Event.as_dict` returned it.
        columns: Its columns with their values.
        context: The context of the change, as JSON.
    """

    data: Mapping[str, Any]
    columns: Sequence[DisplayColumn]
    context: DisplayValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayMessage:
    """A logical message of a parked call."""

    prefix: str
    lsn: str
    content: DisplayValue


class ParkedDisplay:
    """
    Prepares parked events for display, and masks their sensitive values.

    The current settings determine which fields are sensitive. If they do not contain
    the stream, all of its values are hidden. The values of an event that can no longer
    be loaded are hidden as well.

    An instance caches what it looks up, so create one for each page.
    """

    def __init__(self) -> None:
        self._filters: dict[str, Mapping[str, Filter] | None] = {}
        self._models: dict[str, ModelTables] = {}
        self._columns: dict[tuple[object, ...], frozenset[str]] = {}

    def mask(self, parked: ParkedEvent) -> Mask:
        """Return the mask for the sensitive values of a call, such as in its error."""
        filters = self._sensitive(parked.stream)
        if filters is not None and not filters:
            return Mask()
        values: list[Any] = []
        arguments = parked.arguments
        for data in _events(arguments):
            names = self._sensitive_columns(parked.stream, data)
            values += _json_values(data, names)
            if names and (event := _event(data)):
                values += masking.values(event, names)
        if filters is None and "message" in arguments:
            values.append(_content(arguments["message"]))
        return Mask(values, is_needed=True)

    def is_known(self, parked: ParkedEvent) -> bool:
        """Return whether the settings contain the event's stream."""
        return self._sensitive(parked.stream) is not None

    def events(self, parked: ParkedEvent) -> list[DisplayEvent]:
        """Return the events of a call, at most `MAX_EVENTS`."""
        return [
            self._display_event(parked.stream, data)
            for data in _events(parked.arguments)[:MAX_EVENTS]
        ]

    def message(self, parked: ParkedEvent) -> DisplayMessage | None:
        """Return the logical message of a call, if it has one."""
        message = parked.arguments.get("message")
        if message is None:
            return None
        known = self._sensitive(parked.stream) is not None
        return DisplayMessage(
            prefix=message["prefix"],
            lsn=message["lsn"],
            content=truncate(_content(message)) if known else _HIDDEN,
        )

    def _display_event(self, stream: str, data: Mapping[str, Any]) -> DisplayEvent:
        hidden = self._sensitive_columns(stream, data)
        known = self._sensitive(stream) is not None
        changes = data["changes"] or {}
        columns = [
            DisplayColumn(
                name=name,
                type=type,
                old=_HIDDEN
                if name in hidden and _has(data, "old_record", name)
                else _display_value(data, "old_record", name),
                new=_HIDDEN
                if name in hidden and _has(data, "new_record", name)
                else _display_value(data, "new_record", name),
                changed=name in changes,
            )
            for name, type in data["source"]["columns"].items()
        ]
        context = None
        if data["context"]:
            text = json.dumps(data["context"], ensure_ascii=False, indent=2)
            context = truncate(text) if known else _HIDDEN
        return DisplayEvent(
            data=data,
            columns=columns if data["type"] != "truncate" else [],
            context=context,
        )

    def _sensitive(self, stream: str) -> Mapping[str, Filter] | None:
        """Return a stream's filters with sensitive fields, or `None` if unknown."""
        if stream not in self._filters:
            try:
                filters = stored.refreshed(get_config(stream)).filters
            except (ImproperlyConfigured, DatabaseError):
                self._filters[stream] = None
            else:
                self._filters[stream] = {
                    entry: entry_filter
                    for entry, entry_filter in filters.items()
                    if entry_filter.sensitive_fields
                }
        return self._filters[stream]

    def _sensitive_columns(
        self, stream: str, data: Mapping[str, Any]
    ) -> frozenset[str]:
        filters = self._sensitive(stream)
        if filters is not None and not filters:
            return frozenset()
        source = data["source"]
        all_columns = frozenset(source["columns"])
        table = source["db"], source["schema"], source["table"]
        key = (stream, data["model"], all_columns, *table)
        if key not in self._columns:
            found = None
            if filters is not None and (event := _event(data)):
                found = self._find_columns(filters, event)
            self._columns[key] = all_columns if found is None else found
        return self._columns[key]

    def _find_columns(
        self, filters: Mapping[str, Filter], event: Event
    ) -> frozenset[str] | None:
        """Return the sensitive columns of an event's table, or `None` if unknown."""
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
            for entry, entry_filter in filters.items()
            # A table that no longer exists may have been renamed since the event, and
            # the entry may name it by its later name.
            if not lineage.exists or Subscriptions([entry]).cover(lineage)
            for column in entry_filter.sensitive_columns(table)
        )


def truncate(text: str, limit: int = MAX_CHARACTERS) -> DisplayValue:
    """Return the beginning of a text."""
    length = len(text) if len(text) > limit else 0
    return DisplayValue(text=text[:limit], length=length)


def truncate_traceback(text: str) -> DisplayValue:
    """Return the end of a traceback."""
    length = len(text) if len(text) > MAX_TRACEBACK else 0
    return DisplayValue(text=text[-MAX_TRACEBACK:], length=length)


_HIDDEN = DisplayValue(text=MASK, kind="hidden")


def count_events(parked: ParkedEvent) -> int:
    """Return the number of events of a call."""
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


def _json_values(data: Mapping[str, Any], names: frozenset[str]) -> Iterator[Any]:
    """Yield the values of columns in their JSON form."""
    for record in ("old_record", "new_record"):
        for values in (data[record] or {}, data["exact"][record]):
            yield from (value for name, value in values.items() if name in names)


def _has(data: Mapping[str, Any], record: str, name: str) -> bool:
    return data[record] is not None and name in data[record]


def _display_value(data: Mapping[str, Any], record: str, name: str) -> DisplayValue:
    if not _has(data, record, name):
        unsent = record == "new_record" and data["new_record"] is not None
        return DisplayValue(kind="unsent" if unsent else "absent")
    value = data[record][name]
    exact = data["exact"][record].get(name)
    if exact is not None:
        return truncate(exact)
    if value is None:
        return DisplayValue(kind="null")
    if isinstance(value, str):
        return truncate(value)
    return truncate(json.dumps(value, ensure_ascii=False))


def _content(message: Mapping[str, Any]) -> str:
    return base64.b64decode(message["content"]).decode(errors="backslashreplace")
