"""Who needs old rows of tables that do not tell them."""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from . import handlers
from .catalogue import Lineage, column_fields
from .events import EventType
from .filters import Filter, Subscriptions
from .functions import Called
from .handlers import Handler
from .replication.identities import Identity
from .replication.publications import TableName
from .settings_reader import Problem
from .signals import (
    Receiver,
    post_db_change,
    post_db_update,
    receiver_name,
    unwrapped,
)
from .stream_config import StreamConfig

_ALWAYS = frozenset({"changes"})
# Of a DELETE there is always some of the old row.
_OF_UPDATES = _ALWAYS | {"old_instance", "old_record"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRows:
    """
    A table that is published, and what it tells of its old rows.

    Attributes:
        name: as it is published.
        lineage: whose it is.
        identities: its own, or those of its partitions.
    """

    name: TableName
    lineage: Lineage
    identities: tuple[Identity, ...]

    @property
    def model(self) -> type[Model] | None:
        """The model, or `None`."""
        return self.lineage.model

    @property
    def is_whole(self) -> bool:
        """Whether the old rows come whole."""
        return all(each.is_full for each in self.identities)

    @property
    def columns(self) -> frozenset[str]:
        """All that it has."""
        return frozenset().union(*(each.every for each in self.identities))

    def tells(self, columns: Iterable[str]) -> bool:
        """Return whether these columns come of old rows."""
        asked = frozenset(columns)
        return all(asked <= each.columns for each in self.identities)

    def column(self, name: str) -> str:
        """Return the column of a field, or of that name."""
        fields = column_fields(self.model) if self.model else {}
        for column, field in fields.items():
            if name in {field.name, field.attname}:
                return column
        return name

    @property
    def entry(self) -> str:
        """What names it in the settings."""
        return self.model._meta.label if self.model else str(self.name)


def remedy(config: StreamConfig, tables: Iterable[PublishedRows]) -> str:
    """Return what lets tables tell all of their old rows."""
    wanted = config.replica_identity
    missing = [each for each in _entries(tables) if wanted.get(each) != "FULL"]
    if not missing:
        return "run: python manage.py walex_setup"
    entries = ", ".join(f'"{each}": "FULL"' for each in missing)
    return (
        f'add to WALEX[{config.name!r}]: "REPLICA_IDENTITY": {{{entries}}} and run:'
        " python manage.py walex_setup"
    )


def _only(config: StreamConfig, tables: Iterable[PublishedRows]) -> str:
    text = remedy(config, tables)
    return text[0].upper() + text[1:]


def _entries(tables: Iterable[PublishedRows]) -> list[str]:
    return sorted({table.entry for table in tables})


def problems(config: StreamConfig, tables: Collection[PublishedRows]) -> list[Problem]:
    """
    Return what filters, receivers and handlers ask of old rows that do not come.

    Args:
        config: of the stream.
        tables: those that it delivers.
    """
    thin = [table for table in tables if not table.is_whole]
    if not thin:
        return []
    found = []
    for where, chosen, types, covers in _filters(config):
        of = [table for table in thin if covers(table.lineage)]
        found += _filter_problems(config, where, chosen, types, of)
    return found + _reader_problems(config, thin)


def _filters(
    config: StreamConfig,
) -> Iterator[tuple[str, Filter, Collection[EventType], Callable[[Lineage], bool]]]:
    """Yield all filters, with where they are written, and what they are for."""
    for entry, chosen in config.filters.items():
        path = f"WALEX[{config.name!r}]['FILTERS'][{entry!r}]"
        with suppress(ImproperlyConfigured):  # told by the check of settings
            yield path, chosen, tuple(EventType), Subscriptions([entry]).cover
    for handler in _handlers(config):
        yield handler.where, handler.filter, handler.types, handler.covers


def _handlers(config: StreamConfig) -> Iterator[Handler]:
    for handler in [*handlers.registry.values()]:
        if handler.stream in {None, config.name}:
            with suppress(ImproperlyConfigured):
                handler.prepare()
                yield handler


def _filter_problems(
    config: StreamConfig,
    where: str,
    chosen: Filter,
    types: Collection[EventType],
    tables: Iterable[PublishedRows],
) -> list[Problem]:
    asked: dict[tuple[str, EventType], list[PublishedRows]] = {}
    for table in tables:
        for name, type_, compared in _compared(chosen, table):
            if type_ in types and not table.tells(compared):
                asked.setdefault((name, type_), []).append(table)
    return [
        Problem(
            "W036",
            f"{where}: {name!r} lets each {type_.upper()} of {listed(of)} pass, for"
            " the server does not tell enough of the old row.",
            _only(config, of),
        )
        for (name, type_), of in asked.items()
    ]


def _compared(
    chosen: Filter, table: PublishedRows
) -> Iterator[tuple[str, EventType, frozenset[str]]]:
    """Yield the columns of old rows that a filter looks at, on which events."""
    if chosen.changed:
        columns = frozenset(map(table.column, chosen.changed))
        yield "changed", EventType.UPDATE, columns
    if chosen.unwatched_fields:
        others = table.columns - set(map(table.column, chosen.unwatched_fields))
        yield "unwatched_fields", EventType.UPDATE, others
    if chosen.unwatched_records:
        columns = frozenset(map(table.column, chosen.unwatched_records))
        yield "unwatched_records", EventType.DELETE, columns


def _reader_problems(
    config: StreamConfig, tables: list[PublishedRows]
) -> list[Problem]:
    sure: dict[tuple[str, str], list[PublishedRows]] = {}
    unsure: dict[tuple[str, str], list[PublishedRows]] = {}
    for table in tables:
        for name, function, only_updates in _readers(config, table):
            read = names_read(function)
            if of_updates := sorted(read & (_OF_UPDATES if only_updates else _ALWAYS)):
                sure.setdefault((name, of_updates[0]), []).append(table)
            elif others := sorted(read & _OF_UPDATES):
                unsure.setdefault((name, others[0]), []).append(table)
    return [
        Problem(
            "W037",
            f"{name} reads event.{attribute}, which is None for an UPDATE of"
            f" {listed(of)}.",
            _only(config, of),
        )
        for (name, attribute), of in sure.items()
    ] + [
        Problem(
            "I038",
            f"{name} reads event.{attribute}, which is None for an UPDATE of"
            f" {listed(of)} and has the key alone for a DELETE.",
            f"If that is not enough: {remedy(config, of)}",
        )
        for (name, attribute), of in unsure.items()
    ]


def _readers(
    config: StreamConfig, table: PublishedRows
) -> Iterator[tuple[str, Callable[..., Any], bool]]:
    """Yield who hears of a table's updates, and whether of nothing else."""
    for signal in (post_db_update, post_db_change):
        for receiver in signal.receivers_of(table.model, config.name):
            yield receiver_name(receiver), receiver, signal is post_db_update
    for handler in _handlers(config):
        if EventType.UPDATE in handler.types and handler.covers(table.lineage):
            only = handler.types == {EventType.UPDATE}
            yield handlers.dotted(handler), handler.function, only
            for function in handler.functions:
                if not function.is_task:
                    yield handlers.dotted(function), function.function, only


def names_read(function: Receiver) -> frozenset[str]:
    """Return the attributes that a function reads of anything, as its code tells."""
    found: set[str] = set()
    for code in _codes(function):
        found |= _attributes(code)
    return frozenset(found)


def _codes(function: Any) -> Iterator[CodeType]:
    """Yield the code of a function, however it is wrapped."""
    waiting, seen = [unwrapped(function)], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, functools.partial):
            waiting.append(each.func)
        elif isinstance(each, Called):
            waiting.append(each.function)
        elif isinstance(code := getattr(each, "__code__", None), CodeType):
            yield code
        elif (method := getattr(each, "__func__", None)) is not None:
            waiting.append(method)
        elif not isinstance(each, type):
            waiting.append(type(each).__call__)
        if (wrapped := getattr(each, "__wrapped__", None)) is not None:
            waiting.append(wrapped)


@functools.cache
def _attributes(code: CodeType) -> frozenset[str]:
    found = {
        str(each.argval)
        for each in dis.get_instructions(code)
        if each.opname in {"LOAD_ATTR", "LOAD_METHOD"}
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _attributes(constant)
    return frozenset(found)


def listed(tables: Iterable[PublishedRows]) -> str:
    """Return the names of tables."""
    return ", ".join(sorted(str(table.name) for table in tables))
