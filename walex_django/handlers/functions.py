"""Wrappers for functions with one argument: handlers and their ``functions``."""

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
    A function that can be called like a signal receiver.

    Args:
        function: The function; it may be ``async``.
        argument: Name of the keyword argument whose value is passed to the function.
    """

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        functools.update_wrapper(self, function, updated=())
        inner: Any = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        self.__module__ = inner.__module__
        # An instance with __call__() has no __qualname__ of its own.
        self.__qualname__ = getattr(inner, "__qualname__", type(inner).__qualname__)
        self.function, self._argument = function, argument
        is_async = iscoroutinefunction(function) or iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )
        self._call = async_to_sync(function) if is_async else function

    def __call__(self, **arguments: Any) -> None:
        """Call the function with its one argument."""
        self._call(arguments[self._argument])


class Function(Called):
    """
    An entry of a handler's ``functions``, which is called with each event.

    A task is enqueued with the event as a dict instead.

    Args:
        function: A callable, or a task: an object with ``enqueue`` or ``delay``.

    Attributes:
        name: The signal name that its parked calls are stored with.
        is_task: Whether it is a task, which runs elsewhere.

    Raises:
        ImproperlyConfigured: If it can't be called with an event alone.
    """

    name = "function"

    def __init__(self, function: Any) -> None:
        enqueue = _enqueue_method(function)
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
            self._call = self._enqueue_event

    def _enqueue_event(self, event: Event) -> None:
        self._enqueue(event.as_dict())


def find(entry: object, module: str) -> Any:
    """
    Return the function that an entry of ``functions`` names.

    Args:
        entry: The entry.
        module: The module in which a name without dots is looked up.

    Raises:
        ImproperlyConfigured: If the function does not exist.
    """
    try:
        match entry:
            case str() if "." in entry:
                function: object = import_string(entry)
            case str():
                function = getattr(sys.modules[module], entry)
            case (str() as path, str() as name):
                function = getattr(importlib.import_module(path), name)
            case (owner, str() as name):
                function = getattr(owner, name)
            case _:
                function = entry
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(f"functions contains {entry!r}: {error}.") from error
    if not (callable(function) or _enqueue_method(function)):
        raise ImproperlyConfigured(
            f"functions contains {entry!r}, which is not callable."
        )
    return function


def require_argument(function: Callable[..., Any], argument: str) -> None:
    """
    Raise if a function can't be called with a single argument.

    Args:
        function: The function.
        argument: A noun phrase for the error message, such as ``"an event"``.

    Raises:
        ImproperlyConfigured: If the function takes no or further arguments.
    """
    try:
        inspect.signature(function).bind(argument)
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{function!r} must accept {argument} as its only argument: {error}."
        ) from None
    except ValueError:
        return  # the signature of a built-in function may be unknown


def _enqueue_method(function: object) -> Callable[..., Any] | None:
    method: Callable[..., Any] | None
    method = getattr(function, "enqueue", None) or getattr(function, "delay", None)
    return method
