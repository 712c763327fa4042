"""
The context of a change: who makes it, and why.

The process that writes sets the context, and receivers get it as `Event.context`. It is
sent as one logical message in the transaction, and so needs no triggers and no session
settings.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from walex_django.messages import OWN_PREFIX, to_json

PREFIX = f"{OWN_PREFIX}context"
"""Prefix of the logical message with the context of the changes that follow it."""

EMPTY = "{}"
"""The empty context, which ends a context that was attached before."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Frame:
    """
    The context data of one block, on top of the data of the blocks around it.

    Attributes:
        outer: The frame of the surrounding block.
        get: A function that returns the data of the block itself.
        is_constant: Whether it always returns the same data.
    """

    outer: Frame | None
    get: Callable[[], dict[str, Any]]
    is_constant: bool
    _text: str | None = None

    def text(self) -> str:
        """Return the merged data of this frame and the outer ones as JSON."""
        if self._text is not None:
            return self._text
        text = _to_json(self._merged())
        if self._is_all_constant():
            self._text = text
        return text

    def _merged(self) -> dict[str, Any]:
        outer = self.outer._merged() if self.outer else {}
        # get() may run queries. They run in the outer frame, so that they neither get
        # this frame's context nor call get() again.
        with framed(self.outer):
            return {**outer, **self.get()}

    def _is_all_constant(self) -> bool:
        return self.is_constant and (
            self.outer is None or self.outer._is_all_constant()
        )


_current: ContextVar[Frame | None] = ContextVar(PREFIX, default=None)


@contextmanager
def framed(frame: Frame | None) -> Iterator[None]:
    """Make a frame the current one in the ``with`` block."""
    token = _current.set(frame)
    try:
        yield
    finally:
        _current.reset(token)


class Context:
    """The context manager and decorator that `context` returns."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        get = partial(json.loads, self._text)
        _current.set(Frame(_current.get(), get, is_constant=True))

    def __exit__(self, *exc: object) -> None:
        frame = _current.get()
        assert frame
        _current.set(frame.outer)

    def __call__(self, function: F) -> F:
        """Return a function whose calls run with this context."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(
            function
        ):
            raise TypeError(
                f"{function.__qualname__}() is a generator, which runs after its call"
                " has returned. Use `with context(…)` inside it."
            )
        if iscoroutinefunction(function):

            @wraps(function)
            async def inner(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def inner(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return cast("F", inner)


def context(**data: Any) -> Context:
    """
    Set the context of the changes made in a ``with`` block or a decorated function.

    Blocks can be nested. The data of an inner block is added to the data of the outer
    one, and takes precedence.

    Args:
        data: The data of `Event.context`: any values that Django's JSON encoder
            accepts.

    Raises:
        TypeError: If the data can't be encoded.
    """
    return Context(_to_json(data))


def current() -> dict[str, Any] | None:
    """Return the context of a change that is made now, or `None` if none is set."""
    frame = _current.get()
    return None if frame is None else json.loads(frame.text())


def current_text() -> str:
    """Return the context of a change that is made now as JSON."""
    frame = _current.get()
    return EMPTY if frame is None else frame.text()


def is_set() -> bool:
    """Return whether a block or a request has set a context."""
    return _current.get() is not None


def enclosed(get: Callable[[], dict[str, Any]]) -> Frame:
    """Return a frame inside the current one whose data may change."""
    return Frame(_current.get(), get, is_constant=False)


def _to_json(data: dict[str, Any]) -> str:
    try:
        return to_json(data)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The context must be serializable to JSON: {error}") from error
