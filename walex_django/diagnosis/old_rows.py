"""Who needs old rows of tables that do not tell them."""

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


def remedy(
    config: StreamConfig,
    tables: Collection[PublishedRows],
    entry: str | None = None,
) -> str:
    """
    Return what lets tables tell all of their old rows.

    Args:
        config: of the stream.
        tables: these.
        entry: what names them all in the settings, if something does.
    """
    missing = _without_wish(config.replica_identity, tables)
    if not missing:
        return "run: python manage.py walex_setup"
    entries: list[str] = []
    if entry is not None and entry.endswith("*"):
        rest = _without_wish({**config.replica_identity, entry: "FULL"}, missing)
        if len(rest) < len(missing):
            entries, missing = [entry], rest
    entries += sorted({table.entry for table in missing})
    written = ", ".join(f'"{each}": "FULL"' for each in entries[:LISTED])
    more = len(entries) - LISTED
    same = f", the same for {more} more," if more > 0 else ""
    return (
        f'add to WALEX[{config.name!r}]: "REPLICA_IDENTITY": {{{written}}}{same} and'
        " run: python manage.py walex_setup"
    )


def _without_wish(
    entries: Mapping[str, str], tables: Collection[PublishedRows]
) -> list[PublishedRows]:
    """Return the tables that entries do not want to be ``FULL``."""
    try:
        wishes = Wishes(entries)
    except ImproperlyConfigured:  # told by the check of settings
        return list(tables)
    return [
        table
        for table in tables
        if wishes.of(table.model, table.lineage.names) != "FULL"
    ]


def _only(
    config: StreamConfig,
    tables: Collection[PublishedRows],
    entry: str | None = None,
) -> str:
    text = remedy(config, tables, entry)
    return text[0].upper() + text[1:]


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
    for each in filters(config):
        of = [table for table in thin if each.covers(table.lineage)]
        found += _filter_problems(config, each, of)
    return found + _reader_problems(config, thin)


class Written(NamedTuple):
    """
    A filter of a stream or of a handler.

    Attributes:
        where: it is written.
        entry: what names its tables in the settings; `None` of a handler.
        filter: itself.
        types: the events that it is asked of.
        covers: whether it is for a table.
    """

    where: str
    entry: str | None
    filter: Filter
    types: Collection[EventType]
    covers: Callable[[Lineage], bool]


def filters(config: StreamConfig) -> Iterator[Written]:
    """Yield all filters of a stream, and of those who hear of it."""
    for entry, chosen in config.filters.items():
        path = f"WALEX[{config.name!r}]['FILTERS'][{entry!r}]"
        with suppress(ImproperlyConfigured):  # told by the check of settings
            covers = Subscriptions([entry]).cover
            yield Written(path, entry, chosen, tuple(EventType), covers)
    for each in _handlers(config):
        yield Written(each.where, None, each.filter, each.types, each.covers)


def _handlers(config: StreamConfig) -> Iterator[Handler]:
    for handler in [*registry.handlers.values()]:
        if handler.stream in {None, config.name}:
            with suppress(ImproperlyConfigured):
                handler.prepare()
                yield handler


def _filter_problems(
    config: StreamConfig, written: Written, tables: Iterable[PublishedRows]
) -> list[Problem]:
    asked: dict[tuple[str, EventType], list[PublishedRows]] = {}
    for table in tables:
        for name, type_, compared in _compared(written.filter, table):
            if type_ in written.types and not table.tells(compared):
                asked.setdefault((name, type_), []).append(table)
    return [
        Problem(
            "W036",
            f"{written.where}: {name!r} lets each {type_.upper()} of {_names(of)}"
            " pass, for the server does not tell enough of the old row.",
            _only(config, of, written.entry),
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
            f" {_names(of)}.",
            _only(config, of),
        )
        for (name, attribute), of in sure.items()
    ] + [
        Problem(
            "I038",
            f"{name} reads event.{attribute}, which is None for an UPDATE of"
            f" {_names(of)} and has the key alone for a DELETE.",
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
            yield registry.dotted(handler), handler.function, only
            for function in handler.functions:
                if not function.is_task:
                    yield registry.dotted(function), function.function, only


def names_read(function: Receiver) -> frozenset[str]:
    """Return the attributes that a function reads of an event, as its code tells."""
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
    every = [each for each in dis.get_instructions(code) if each.opname not in _NOTHING]
    found = {
        str(each.argval)
        for place, each in enumerate(every)
        if each.opname in {"LOAD_ATTR", "LOAD_METHOD"} and _is_event(every[:place][-2:])
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _attributes(constant)
    return frozenset(found)


_NOTHING = {"CACHE", "EXTENDED_ARG", "NOP"}
# From 3.13 on, one instruction may load two variables, or store one before.
_LOAD_VARIABLE = re.compile(
    r"(?:.+_)?LOAD_(?:FAST|FAST_CHECK|FAST_BORROW|DEREF|NAME|GLOBAL)"
)
_EVENTS = {"e", "ev", "evt", "each", "change"}


def _is_event(before: Sequence[dis.Instruction]) -> bool:
    """Return whether instructions end with what is called as events are."""
    if not before:
        return False
    last = before[-1]
    if _LOAD_VARIABLE.fullmatch(last.opname):
        loaded = last.argval[-1] if isinstance(last.argval, tuple) else last.argval
        name = str(loaded).lower()
        return name in _EVENTS or "event" in name
    is_item = last.opname == "BINARY_SUBSCR" or (
        last.opname == "BINARY_OP" and last.argrepr == "[]"
    )
    return is_item and (before[0].opname, before[0].argval) == ("LOAD_CONST", "event")


def _names(tables: Iterable[PublishedRows]) -> str:
    return listed(table.name for table in tables)
