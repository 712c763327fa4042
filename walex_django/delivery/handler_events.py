"""The events that each handler gets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from operator import attrgetter
from typing import TypeAlias

from walex_django.events.event import Event, EventType
from walex_django.events.table import Table
from walex_django.filters import TableFilter
from walex_django.handlers import registry
from walex_django.handlers.registry import Handler

Group: TypeAlias = tuple[EventType, Table]

_MAX_GROUPS = 10_000


class HandlerEvents:
    """
    Finds the handlers of events, and remembers them by table and type.

    Args:
        stream: The name of the stream.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._generation = registry.generation
        self._handlers: dict[Group, list[tuple[Handler, TableFilter | None]]] = {}

    def of(self, grouped: Mapping[Group, list[Event]]) -> dict[Handler, list[Event]]:
        """Return each handler's events, in the order of the transaction."""
        found: dict[Handler, list[list[Event]]] = {}
        for group, events in grouped.items():
            for handler, table_filter in self._handlers_of(group):
                passed = (
                    list(filter(table_filter.passes, events))
                    if table_filter
                    else events
                )
                if passed:
                    found.setdefault(handler, []).append(passed)
        return {
            handler: parts[0]
            if len(parts) == 1
            else sorted(chain(*parts), key=attrgetter("ordinal"))
            for handler, parts in found.items()
        }

    def _handlers_of(self, group: Group) -> list[tuple[Handler, TableFilter | None]]:
        if self._generation != registry.generation:
            self._generation = registry.generation
            self._handlers.clear()
        found = self._handlers.get(group)
        if found is None:
            if len(self._handlers) >= _MAX_GROUPS:
                # The server describes the same tables again and again.
                self._handlers.clear()
            type, table = group
            found = self._handlers[group] = [
                (handler, handler.filter.for_table(table))
                for handler in list(registry.handlers.values())
                if type in handler.types
                and handler.stream in {None, self._stream}
                and table.lineage is not None
                and handler.covers(table.lineage)
            ]
        return found
