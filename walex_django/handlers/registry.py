"""
Handlers: functions that get the events of a transaction as a list.

Source: WalEx, ``WalEx.Event.Dsl``.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from django.utils.module_loading import autodiscover_modules

from walex_django.conf.names import module_exists
from walex_django.conf.reader import read_filter
from walex_django.events.catalogue import Lineage
from walex_django.events.event import EventType
from walex_django.filters import Filter, Where
from walex_django.subscriptions import ALL_TABLES, Subscriptions

from .functions import Called, Function, find, require_argument

Tables: TypeAlias = "type[Model] | str | Collection[type[Model] | str]"
"""One or several models, ``"app.Model"``, ``"schema.table"``, … or `ALL_TABLES`."""

Handling = TypeVar("Handling", bound=Callable[..., Any])


@dataclass(eq=False)
class Handler(Called):
    """
    A function that gets events as a list.

    Attributes:
        name: of the decorator, such as ``"on_insert"``.
        function: gets the events.
        place: where it is registered, for errors.
        types: the events that it is for.
        tables: the tables that it is for, as written.
        stream: the only one that it hears of, or `None` for all.
        filter: what it does not get.
        given_functions, functions: as written, and looked up.
        number: of its registration.
    """

    name: str
    function: Callable[..., Any]
    place: str
    types: frozenset[EventType]
    tables: tuple[type[Model] | str, ...]
    stream: str | None
    filter: Filter
    given_functions: tuple[object, ...]
    functions: list[Function] = field(default_factory=list)
    is_prepared: bool = False
    number: int = field(default_factory=itertools.count().__next__)
    _subscriptions: Subscriptions | None = None

    def __post_init__(self) -> None:
        super().__init__(self.function, "events")

    def prepare(self) -> None:
        """
        Look up the functions, which may be defined after their handler.

        Raises:
            ImproperlyConfigured: there is no such function, or table.
        """
        self.look_up()
        try:
            self.filter.condition()
            self.functions = [
                Function(find(given, self.function.__module__))
                for given in self.given_functions
            ]
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"{self.where}: {error}") from error
        self.is_prepared = True

    def look_up(self) -> Subscriptions:
        """
        Return the tables that it is for.

        Raises:
            ImproperlyConfigured: there is no such model, field or value.
        """
        if self._subscriptions is None:
            try:
                subscriptions = Subscriptions(map(_entry, self.tables))
                for model in subscriptions.models:
                    self.filter.require_fields(model)
            except ImproperlyConfigured as error:
                raise ImproperlyConfigured(f"{self.where}: {error}") from error
            self._subscriptions = subscriptions
        return self._subscriptions

    def covers(self, lineage: Lineage) -> bool:
        """Return whether it is for a table; its functions are looked up then."""
        if not self.is_prepared:
            self.prepare()
        return self.look_up().cover(lineage)

    @property
    def where(self) -> str:
        """Where it is registered, and by what."""
        return f"{self.place}, @{self.name}"


handlers: dict[tuple[str, str], Handler] = {}
"""All handlers, in the order of their registration, by decorator and dotted name."""

_changes = itertools.count(1)
generation = 0
"""Changes with each handler that comes or goes."""


class Options(TypedDict, total=False):
    """What the decorators take besides tables; see `on_event`."""

    stream: str | None
    unwatched_records: Mapping[str, Any]
    unwatched_fields: Collection[str]
    changed: Collection[str]
    where: Where | str | None
    functions: Collection[object]


def on_event(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """
    Register a function for the changes of tables, whatever was done to them.

    It is called with a list: the events of one transaction, in order, of which there
    are at most ``MAX_BATCH`` at a time. It may be ``async``.

    Args:
        tables: a model, its label, ``"app.*"``, ``"schema.table"``, ``"schema.*"``,
            `ALL_TABLES`, or several of these.
        stream: hear of that one only.
        unwatched_records: see `Filter`, as of the next three.
        unwatched_fields: names of fields.
        changed: names of fields.
        where: called with an event; or its dotted path.
        functions: each is called with each event, beside the handler, in a thread of a
            pool; their work is part of the transaction, which is not acknowledged
            before it is done. Callables, dotted paths, names in the handler's own
            module, pairs of module and name. What has ``enqueue`` or ``delay`` is a
            task: it is handed ``event.as_dict()``.

    Raises:
        ImproperlyConfigured: an argument is wrong, or the function is registered
            already; says where.

    Source: WalEx, ``on_event/4``.
    """
    return _register("on_event", tuple(EventType), tables, options)


def on_insert(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for rows that are inserted; see `on_event`."""
    return _register("on_insert", (EventType.INSERT,), tables, options)


def on_update(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for rows that are updated; see `on_event`."""
    return _register("on_update", (EventType.UPDATE,), tables, options)


def on_delete(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for rows that are deleted; see `on_event`."""
    return _register("on_delete", (EventType.DELETE,), tables, options)


def on_truncate(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for tables that are emptied by TRUNCATE; see `on_event`."""
    return _register("on_truncate", (EventType.TRUNCATE,), tables, options)


def unregister(function: Callable[..., Any]) -> None:
    """Take a function out again, from all that it was registered for."""
    for key, handler in list(handlers.items()):
        if handler.function is function:
            del handlers[key]
    _note_change()


def _note_change() -> None:
    global generation  # noqa: PLW0603
    generation = next(_changes)


def load(modules: Iterable[str] = ()) -> None:
    """
    Import where handlers are: each app's ``walex``, and these modules.

    Args:
        modules: their dotted names. What is not there, a check tells.

    Raises:
        ImproperlyConfigured: a handler names what is not there.
    """
    autodiscover_modules("walex")
    for module in modules:
        if module_exists(module):
            importlib.import_module(module)
    # Looking up a function imports its module, which may have handlers itself.
    while waiting := [each for each in [*handlers.values()] if not each.is_prepared]:
        for handler in waiting:
            handler.prepare()


def find_function(name: str, dotted_name: str) -> Called | None:
    """
    Return what a parked call was made of, if it is still registered.

    Args:
        name: of the decorator, or ``"function"``.
        dotted_name: of the function.
    """
    if name != Function.name:
        return handlers.get((name, dotted_name))
    functions = (each for of in [*handlers.values()] for each in of.functions)
    found = {id(f.function): f for f in functions if dotted(f) == dotted_name}
    # Of two lambdas nobody knows which one it was.
    return found.popitem()[1] if len(found) == 1 else None


def dotted(function: Any) -> str:
    """Return the dotted name of a function."""
    return f"{function.__module__}.{function.__qualname__}"


def _register(
    name: str, types: tuple[EventType, ...], tables: Tables, options: Options
) -> Callable[[Handling], Handling]:
    caller = sys._getframe(2)
    place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
    try:
        table_list = _read_tables(tables)
        stream, functions, chosen = _read_options(options)
    except ValueError as error:
        problem = str(error).replace("\n", ". ")
        raise ImproperlyConfigured(f"{place}, @{name}: {problem}") from None

    def decorate(function: Handling) -> Handling:
        try:
            require_argument(function, "a list of events")
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"{place}, @{name}: {error}") from None
        handler = Handler(
            *(name, function, place, frozenset(types), table_list, stream, chosen),
            given_functions=functions,
        )
        key = (name, dotted(handler))
        if key in handlers:
            raise ImproperlyConfigured(
                f"{handler.where}: {key[1]} is registered already, at"
                f" {handlers[key].place}. Give one decorator all its tables."
            )
        if apps.models_ready:
            handler.look_up()
        handlers[key] = handler
        _note_change()
        return function

    return decorate


def _read_tables(tables: Tables) -> tuple[type[Model] | str, ...]:
    # As it may be written where types are not checked.
    given: object = tables
    if not isinstance(given, str | type | list | tuple | set | frozenset):
        raise ValueError(f"it is for a table or a list of them, not {given!r}")
    found = (given,) if isinstance(given, str | type) else tuple(given)
    for each in found:
        if not _is_table(each):
            raise ValueError(f"a table is a model or 'app.Model', not {each!r}")
    if not found:
        raise ValueError("it is for no table")
    return found


def _read_options(
    options: Options,
) -> tuple[str | None, tuple[object, ...], Filter]:
    for key in options:
        if key not in Options.__annotations__:
            raise ValueError(
                f"unknown argument {key!r}; known are"
                f" {', '.join(Options.__annotations__)}"
            )
    functions = options.get("functions", ())
    if not isinstance(functions, list | tuple | set | frozenset):
        raise ValueError(f"functions must be a list, not {functions!r}")
    stream = options.get("stream")
    if not isinstance(stream, str | None):
        raise ValueError(f"stream must be a name, not {stream!r}")
    rest = {
        key: tuple(value) if isinstance(value, set | frozenset) else value
        for key, value in options.items()
        if key not in {"functions", "stream"}
    }
    return stream, tuple(functions), read_filter(rest)


def _is_table(given: object) -> bool:
    if not isinstance(given, str):
        return isinstance(given, type) and issubclass(given, Model)
    owner, _, name = given.partition(".")
    return given == ALL_TABLES or bool(owner not in {"", "*"} and name)


def _entry(table: type[Model] | str) -> str:
    return table if isinstance(table, str) else table._meta.label
