"""Functions that are called with one argument: handlers, and those beside them."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from walex_django.events.event import Event


class Called:
    """
    A function, to be called like a receiver of signals.

    Args:
        function: sync or ``async``.
        argument: name of the keyword argument that it gets, as its only one.

    Raises:
        ImproperlyConfigured: it cannot be called so.
    """

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        functools.update_wrapper(self, function, updated=())
        named: Any = function
        while isinstance(named, functools.partial):
            named = named.func
        self.__module__ = named.__module__
        # Objects have only their class's.
        self.__qualname__ = getattr(named, "__qualname__", type(named).__qualname__)
        self.function, self._argument = function, argument
        is_async = iscoroutinefunction(function) or iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )
        self._call = async_to_sync(function) if is_async else function

    def __call__(self, **arguments: Any) -> None:
        """Call the function with its argument."""
        self._call(arguments[self._argument])


class Function(Called):
    """
    A function of a handler, which gets each event; or a task, which gets its dict.

    Args:
        function: callable, or with ``enqueue`` or ``delay``.

    Attributes:
        name: what its calls are parked under.
        is_task: it is handed over, to be done elsewhere.
    """

    name = "function"

    def __init__(self, function: Any) -> None:
        enqueue = _enqueues(function)
        self.is_task = enqueue is not None
        super().__init__(function, "event")
        if enqueue is None:
            require_argument(function, "an event")
        else:
            path = getattr(function, "module_path", None) or getattr(
                function, "name", None
            )
            if path:
                self.__module__, _, self.__qualname__ = path.rpartition(".")
            self._enqueue = enqueue
            self._call = self._hand_over

    def _hand_over(self, event: Event) -> None:
        self._enqueue(event.as_dict())


def find(given: object, module: str) -> Any:
    """
    Return what an entry of ``functions`` names.

    Args:
        given: the entry.
        module: where a name without dots is looked up.

    Raises:
        ImproperlyConfigured: there is no such function.
    """
    try:
        match given:
            case str() if "." in given:
                found: object = import_string(given)
            case str():
                found = getattr(sys.modules[module], given)
            case (str() as path, str() as name):
                found = getattr(importlib.import_module(path), name)
            case (owner, str() as name):
                found = getattr(owner, name)
            case _:
                found = given
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(f"functions has {given!r}: {error}.") from error
    if not (callable(found) or _enqueues(found)):
        raise ImproperlyConfigured(f"functions has {given!r}, which cannot be called.")
    return found


def require_argument(function: Callable[..., Any], argument: str) -> None:
    """Raise if a function cannot be called with one argument, and nothing else."""
    try:
        inspect.signature(function).bind(argument)
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{function!r} is to be called with {argument} alone: {error}."
        ) from None
    except ValueError:
        return  # of what is built in, the signature may not be known


def _enqueues(function: object) -> Callable[..., Any] | None:
    """Return what hands a call over, if a function is a task."""
    found: Callable[..., Any] | None
    found = getattr(function, "enqueue", None) or getattr(function, "delay", None)
    return found
