"""
The decorators that register handlers, and the registry.

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
from walex_django.conf.parsers import read_filter
from walex_django.events.catalogue import Lineage
from walex_django.events.event import EventType
from walex_django.filters import Filter, Where
from walex_django.subscriptions import ALL_TABLES, Subscriptions

from .functions import Called, Function, find, require_argument

Tables: TypeAlias = "type[Model] | str | Collection[type[Model] | str]"
"""A model, an entry of `Subscriptions` such as ``"app.Model"``, or several of these."""

Handling = TypeVar("Handling", bound=Callable[..., Any])


@dataclass(eq=False)
class Handler(Called):
    """
    A function that is called with a list of events.

    Attributes:
        name: Name of the decorator, such as ``"on_insert"``.
        function: The function.
        place: File and line of the registration, for error messages.
        types: Types of the events that it gets.
        tables: Tables whose events it gets, as passed to the decorator.
        stream: Name of the only stream whose events it gets, or `None` for all.
        filter: Filter of its events.
        given_functions: The ``functions`` passed to the decorator.
        functions: The same after `prepare` has looked them up.
        number: Position in the order of registration.
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
            ImproperlyConfigured: If a function or a table does not exist.
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
        Return the tables whose events the handler gets.

        Raises:
            ImproperlyConfigured: If a model does not exist, or its fields do not fit
                the filter.
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
        """Return whether the handler gets a table's events. Prepares it first."""
        if not self.is_prepared:
            self.prepare()
        return self.look_up().cover(lineage)

    @property
    def where(self) -> str:
        """The place of the registration and the decorator."""
        return f"{self.place}, @{self.name}"


handlers: dict[tuple[str, str], Handler] = {}
"""All handlers by decorator and dotted name, in the order of registration."""

_changes = itertools.count(1)
generation = 0
"""A number that increases whenever a handler is registered or unregistered."""


class Options(TypedDict, total=False):
    """The keyword arguments of the decorators; see `on_event`."""

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
    Register a function for all changes of tables.

    The function is called with a list of the events of one transaction, in order. The
    list has at most ``MAX_BATCH`` events; the function is called several times for a
    larger transaction. It may be ``async``.

    Args:
        tables: A model, its label, ``"app.*"``, ``"schema.table"``, ``"schema.*"``,
            `ALL_TABLES`, or several of these.
        stream: Name of the only stream whose events the function gets.
        unwatched_records: See `Filter`.
        unwatched_fields: See `Filter`.
        changed: See `Filter`.
        where: See `Filter`.
        functions: Functions that are called with each event, in a thread pool and
            concurrently with the handler. The transaction is acknowledged when they
            have finished. An entry is a callable, a dotted path, a name in the
            handler's module, or a pair of a module and a name. An object with
            ``enqueue`` or ``delay`` is a task, which gets ``event.as_dict()``.

    Raises:
        ImproperlyConfigured: If an argument is invalid, or the function is already
            registered. The message contains the file and line.

    Source: WalEx, ``on_event/4``.
    """
    return _register("on_event", tuple(EventType), tables, options)


def on_insert(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for INSERT; see `on_event`."""
    return _register("on_insert", (EventType.INSERT,), tables, options)


def on_update(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for UPDATE; see `on_event`."""
    return _register("on_update", (EventType.UPDATE,), tables, options)


def on_delete(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for DELETE; see `on_event`."""
    return _register("on_delete", (EventType.DELETE,), tables, options)


def on_truncate(
    tables: Tables, **options: Unpack[Options]
) -> Callable[[Handling], Handling]:
    """Register a function for TRUNCATE; see `on_event`."""
    return _register("on_truncate", (EventType.TRUNCATE,), tables, options)


def unregister(function: Callable[..., Any]) -> None:
    """Remove all registrations of a function."""
    for key, handler in list(handlers.items()):
        if handler.function is function:
            del handlers[key]
    _note_change()


def _note_change() -> None:
    global generation  # noqa: PLW0603
    generation = next(_changes)


def load(modules: Iterable[str] = ()) -> None:
    """
    Import the modules with handlers, and prepare the handlers.

    Args:
        modules: Dotted names of modules in addition to the ``walex`` module of each
            app. Missing modules are ignored here; a system check reports them.

    Raises:
        ImproperlyConfigured: If a handler names a function or table that does not
            exist.
    """
    autodiscover_modules("walex")
    for module in modules:
        if module_exists(module):
            importlib.import_module(module)
    # Looking up a function imports its module, which may register further handlers.
    while unprepared := [
        handler for handler in [*handlers.values()] if not handler.is_prepared
    ]:
        for handler in unprepared:
            handler.prepare()


def find_functions(name: str, dotted_name: str) -> list[Called]:
    """
    Return the registered handlers or functions that a parked call may belong to.

    Several functions, such as lambdas, can have the same name.

    Args:
        name: Name of the decorator, or ``"function"``.
        dotted_name: Dotted name of the function.
    """
    if name != Function.name:
        handler = handlers.get((name, dotted_name))
        return [handler] if handler else []
    found: list[Called] = []
    for handler in [*handlers.values()]:
        for function in handler.functions:
            # Methods are equal, but not identical, each time they are looked up.
            if dotted(function) == dotted_name and not any(
                other.function == function.function for other in found
            ):
                found.append(function)
    return found


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
        stream, functions, filter_ = _read_options(options)
    except ValueError as error:
        problem = str(error).replace("\n", ". ")
        raise ImproperlyConfigured(f"{place}, @{name}: {problem}") from None

    def decorate(function: Handling) -> Handling:
        try:
            require_argument(function, "a list of events")
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"{place}, @{name}: {error}") from None
        handler = Handler(
            *(name, function, place, frozenset(types), table_list, stream, filter_),
            given_functions=functions,
        )
        key = (name, dotted(handler))
        if key in handlers:
            raise ImproperlyConfigured(
                f"{handler.where}: {key[1]} is already registered at"
                f" {handlers[key].place}. Pass all its tables to one decorator."
            )
        if apps.models_ready:
            handler.look_up()
        handlers[key] = handler
        _note_change()
        return function

    return decorate


def _read_tables(tables: Tables) -> tuple[type[Model] | str, ...]:
    value: object = tables  # callers may not use a type checker
    if not isinstance(value, str | type | list | tuple | set | frozenset):
        raise ValueError(f"tables must be a table or a list of tables, not {value!r}")
    result = (value,) if isinstance(value, str | type) else tuple(value)
    for table in result:
        if not _is_table(table):
            raise ValueError(f"a table must be a model or 'app.Model', not {table!r}")
    if not result:
        raise ValueError("tables must not be empty")
    return result


def _read_options(
    options: Options,
) -> tuple[str | None, tuple[object, ...], Filter]:
    for key in options:
        if key not in Options.__annotations__:
            raise ValueError(
                f"unknown argument {key!r}. Choices are:"
                f" {', '.join(Options.__annotations__)}"
            )
    functions = options.get("functions", ())
    if not isinstance(functions, list | tuple | set | frozenset):
        raise ValueError(f"functions must be a list, not {functions!r}")
    stream = options.get("stream")
    if not isinstance(stream, str | None):
        raise ValueError(f"stream must be a string, not {stream!r}")
    rest = {
        key: tuple(value) if isinstance(value, set | frozenset) else value
        for key, value in options.items()
        if key not in {"functions", "stream"}
    }
    return stream, tuple(functions), read_filter(rest)


def _is_table(value: object) -> bool:
    if not isinstance(value, str):
        return isinstance(value, type) and issubclass(value, Model)
    owner, _, name = value.partition(".")
    return value == ALL_TABLES or bool(owner not in {"", "*"} and name)


def _entry(table: type[Model] | str) -> str:
    return table if isinstance(table, str) else table._meta.label
