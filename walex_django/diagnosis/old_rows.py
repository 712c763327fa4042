"""Filters, receivers and handlers that need old values missing from the WAL."""

from __future__ import annotations

import dis
import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import Lineage, column_fields
from walex_django.events.event import EventType
from walex_django.filters import Filter
from walex_django.handlers import registry
from walex_django.handlers.functions import Called
from walex_django.handlers.registry import Handler
from walex_django.provisioning.named_tables import LISTED, listed
from walex_django.provisioning.replica_identity import Wishes
from walex_django.replication.identities import Identity
from walex_django.replication.publications import TableName
from walex_django.signals import (
    Receiver,
    post_db_change,
    post_db_update,
    receiver_name,
    unwrapped,
)
from walex_django.subscriptions import Subscriptions

# Only UPDATE events have `changes`. A receiver of several event types may read the
# other two for a DELETE alone, whose old row always contains at least the key.
_UPDATE_ATTRIBUTES = frozenset({"changes"})
_OLD_ROW_ATTRIBUTES = _UPDATE_ATTRIBUTES | {"old_instance", "old_record"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableIdentities:
    """
    A table, and the replica identities that decide which old values it sends.

    Attributes:
        name: The name under which the table is published.
        lineage: The table's model, and the tables that it is a part of.
        identities: The table's own identity, or those of its partitions.
    """

    name: TableName
    lineage: Lineage
    identities: tuple[Identity, ...]

    @property
    def model(self) -> type[Model] | None:
        """The table's model, or `None`."""
        return self.lineage.model

    @property
    def is_full(self) -> bool:
        """Whether the old rows contain all columns."""
        return all(identity.is_full for identity in self.identities)

    @property
    def columns(self) -> frozenset[str]:
        """All columns of the table."""
        return frozenset().union(*(identity.every for identity in self.identities))

    def includes(self, columns: Iterable[str]) -> bool:
        """Return whether the old rows contain all of these columns."""
        needed = frozenset(columns)
        return all(needed <= identity.columns for identity in self.identities)

    def column(self, name: str) -> str:
        """Return the column of the field with this name, or else the name itself."""
        fields = column_fields(self.model) if self.model else {}
        for column, field in fields.items():
            if name in {field.name, field.attname}:
                return column
        return name

    @property
    def entry(self) -> str:
        """The entry that names the table in the settings."""
        return self.model._meta.label if self.model else str(self.name)


def remedy(
    config: StreamConfig,
    tables: Collection[TableIdentities],
    entry: str | None = None,
) -> str:
    """
    Return a hint that says how to set the replica identity of tables to ``FULL``.

    Args:
        config: The stream's configuration.
        tables: The tables to set.
        entry: An entry of the settings that names them all, if one exists.
    """
    missing = _not_set_to_full(config.replica_identity, tables)
    if not missing:
        return "run: python manage.py walex_setup"
    entries: list[str] = []
    if entry is not None and entry.endswith("*"):
        rest = _not_set_to_full({**config.replica_identity, entry: "FULL"}, missing)
        if len(rest) < len(missing):
            entries, missing = [entry], rest
    entries += sorted({table.entry for table in missing})
    shown = ", ".join(f'"{shown_entry}": "FULL"' for shown_entry in entries[:LISTED])
    more = len(entries) - LISTED
    likewise = f", likewise for {more} more tables," if more > 0 else ""
    return (
        f'add "REPLICA_IDENTITY": {{{shown}}} to WALEX[{config.name!r}]{likewise} and'
        " run: python manage.py walex_setup"
    )


def _not_set_to_full(
    entries: Mapping[str, str], tables: Collection[TableIdentities]
) -> list[TableIdentities]:
    """Return the tables that ``REPLICA_IDENTITY`` does not set to ``FULL``."""
    try:
        wishes = Wishes(entries)
    except ImproperlyConfigured:  # reported by the check of the settings
        return list(tables)
    return [
        table
        for table in tables
        if wishes.of(table.model, table.lineage.names) != "FULL"
    ]


def _remedy_sentence(
    config: StreamConfig,
    tables: Collection[TableIdentities],
    entry: str | None = None,
) -> str:
    text = remedy(config, tables, entry)
    return text[0].upper() + text[1:]


def problems(
    config: StreamConfig, tables: Collection[TableIdentities]
) -> list[Problem]:
    """
    Return the filters, receivers and handlers that need old values they do not get.

    Args:
        config: The stream's configuration.
        tables: The tables that the stream delivers.
    """
    incomplete = [table for table in tables if not table.is_full]
    if not incomplete:
        return []
    found = []
    for scoped in filters(config):
        covered = [table for table in incomplete if scoped.covers(table.lineage)]
        found += _filter_problems(config, scoped, covered)
    return found + _reader_problems(config, incomplete)


class ScopedFilter(NamedTuple):
    """
    A filter of a stream or of a handler, and the events that it applies to.

    Attributes:
        path: The place where the filter is defined, for messages.
        entry: The entry that names its tables in the settings; `None` for a handler.
        filter: The filter.
        types: The event types that it applies to.
        covers: A function that returns whether the filter applies to a table.
    """

    path: str
    entry: str | None
    filter: Filter
    types: Collection[EventType]
    covers: Callable[[Lineage], bool]


def filters(config: StreamConfig) -> Iterator[ScopedFilter]:
    """Yield all filters of a stream and of the handlers that get its events."""
    for entry, filter_ in config.filters.items():
        path = f"WALEX[{config.name!r}]['FILTERS'][{entry!r}]"
        with suppress(ImproperlyConfigured):  # reported by the check of the settings
            covers = Subscriptions([entry]).cover
            yield ScopedFilter(path, entry, filter_, tuple(EventType), covers)
    for handler in _handlers(config):
        yield ScopedFilter(
            handler.where, None, handler.filter, handler.types, handler.covers
        )


def _handlers(config: StreamConfig) -> Iterator[Handler]:
    for handler in [*registry.handlers.values()]:
        if handler.stream in {None, config.name}:
            with suppress(ImproperlyConfigured):
                handler.prepare()
                yield handler


def _filter_problems(
    config: StreamConfig, scoped: ScopedFilter, tables: Iterable[TableIdentities]
) -> list[Problem]:
    affected: dict[tuple[str, EventType], list[TableIdentities]] = {}
    for table in tables:
        for option, type_, columns in _compared_columns(scoped.filter, table):
            if type_ in scoped.types and not table.includes(columns):
                affected.setdefault((option, type_), []).append(table)
    return [
        Problem(
            "W036",
            f"{scoped.path}: {option!r} lets every {type_.upper()} of"
            f" {_names(affected_tables)} pass, because the replica identity does not"
            " include all columns that it compares.",
            _remedy_sentence(config, affected_tables, scoped.entry),
        )
        for (option, type_), affected_tables in affected.items()
    ]


def _compared_columns(
    filter_: Filter, table: TableIdentities
) -> Iterator[tuple[str, EventType, frozenset[str]]]:
    """Yield each option that compares old values, for which events, which columns."""
    if filter_.changed:
        columns = frozenset(map(table.column, filter_.changed))
        yield "changed", EventType.UPDATE, columns
    if filter_.unwatched_fields:
        watched = table.columns - set(map(table.column, filter_.unwatched_fields))
        yield "unwatched_fields", EventType.UPDATE, watched
    if filter_.unwatched_records:
        columns = frozenset(map(table.column, filter_.unwatched_records))
        yield "unwatched_records", EventType.DELETE, columns


def _reader_problems(
    config: StreamConfig, tables: list[TableIdentities]
) -> list[Problem]:
    certain: dict[tuple[str, str], list[TableIdentities]] = {}
    possible: dict[tuple[str, str], list[TableIdentities]] = {}
    for table in tables:
        for name, function, only_updates in _readers(config, table):
            read = attributes_read(function)
            missing = _OLD_ROW_ATTRIBUTES if only_updates else _UPDATE_ATTRIBUTES
            if needed := sorted(read & missing):
                certain.setdefault((name, needed[0]), []).append(table)
            elif maybe_needed := sorted(read & _OLD_ROW_ATTRIBUTES):
                possible.setdefault((name, maybe_needed[0]), []).append(table)
    return [
        Problem(
            "W037",
            f"{name} reads event.{attribute}, which is None for an UPDATE of"
            f" {_names(affected_tables)}.",
            _remedy_sentence(config, affected_tables),
        )
        for (name, attribute), affected_tables in certain.items()
    ] + [
        Problem(
            "I038",
            f"{name} reads event.{attribute}, which is None for an UPDATE of"
            f" {_names(affected_tables)} and contains only the key for a DELETE.",
            f"If you need the complete old row, {remedy(config, affected_tables)}",
        )
        for (name, attribute), affected_tables in possible.items()
    ]


def _readers(
    config: StreamConfig, table: TableIdentities
) -> Iterator[tuple[str, Callable[..., Any], bool]]:
    """Yield the functions that get a table's updates, and whether only those."""
    for signal in (post_db_update, post_db_change):
        for receiver in signal.receivers_of(table.model, config.name):
            yield receiver_name(receiver), receiver, signal is post_db_update
    for handler in _handlers(config):
        if EventType.UPDATE in handler.types and handler.covers(table.lineage):
            only = handler.types == {EventType.UPDATE}
            yield registry.dotted(handler), handler.function, only
            for function in handler.functions:
                if not function.is_task:
                    yield registry.dotted(function), function.function, only


def attributes_read(function: Receiver) -> frozenset[str]:
    """Return the attributes that a function's bytecode reads from an event."""
    found: set[str] = set()
    for code in _code_objects(function):
        found |= _attributes(code)
    return frozenset(found)


def _code_objects(function: Any) -> Iterator[CodeType]:
    """Yield the code objects of a function and of the functions that it wraps."""
    pending, seen = [unwrapped(function)], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, functools.partial):
            pending.append(current.func)
        elif isinstance(current, Called):
            pending.append(current.function)
        elif isinstance(code := getattr(current, "__code__", None), CodeType):
            yield code
        elif (method := getattr(current, "__func__", None)) is not None:
            pending.append(method)
        elif not isinstance(current, type):
            pending.append(type(current).__call__)
        if (wrapped := getattr(current, "__wrapped__", None)) is not None:
            pending.append(wrapped)


@functools.cache
def _attributes(code: CodeType) -> frozenset[str]:
    instructions = [
        instruction
        for instruction in dis.get_instructions(code)
        if instruction.opname not in _IGNORED
    ]
    found = {
        str(instruction.argval)
        for index, instruction in enumerate(instructions)
        if instruction.opname in {"LOAD_ATTR", "LOAD_METHOD"}
        and _loads_event(instructions[:index][-2:])
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _attributes(constant)
    return frozenset(found)


_IGNORED = {"CACHE", "EXTENDED_ARG", "NOP"}
# Since Python 3.13, one instruction may load two variables, or store one and load one.
_LOAD_VARIABLE = re.compile(
    r"(?:.+_)?LOAD_(?:FAST|FAST_CHECK|FAST_BORROW|DEREF|NAME|GLOBAL)"
)
_EVENT_NAMES = {"e", "ev", "evt", "each", "change"}


def _loads_event(before: Sequence[dis.Instruction]) -> bool:
    """Return whether instructions end by loading a variable named like an event."""
    if not before:
        return False
    last = before[-1]
    if _LOAD_VARIABLE.fullmatch(last.opname):
        loaded = last.argval[-1] if isinstance(last.argval, tuple) else last.argval
        name = str(loaded).lower()
        return name in _EVENT_NAMES or "event" in name
    is_item = last.opname == "BINARY_SUBSCR" or (
        last.opname == "BINARY_OP" and last.argrepr == "[]"
    )
    return is_item and (before[0].opname, before[0].argval) == ("LOAD_CONST", "event")


def _names(tables: Iterable[TableIdentities]) -> str:
    return listed(table.name for table in tables)
