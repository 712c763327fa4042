"""
Who makes a change, and why.

What is known of that in the process that writes becomes `Event.context` where the
change is heard of. It travels as one logical message in the transaction, so that it
needs no triggers and no settings of the session.
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
"""Of the logical message that has the context of the changes behind it."""

EMPTY = "{}"
"""A context of nothing: what was attached before no longer holds."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Frame:
    """
    What one block knows, over what the blocks around it know.

    Attributes:
        get: gives what it knows itself.
        lasts: whether that is the same each time.
    """

    outer: Frame | None
    get: Callable[[], dict[str, Any]]
    lasts: bool
    _text: str | None = None

    def text(self) -> str:
        """Return as JSON what all of them know."""
        if self._text is not None:
            return self._text
        text = _to_json(self._merged())
        if self._all_last():
            self._text = text
        return text

    def _merged(self) -> dict[str, Any]:
        outer = self.outer._merged() if self.outer else {}
        # What it takes to know it is not done in its own name.
        with framed(self.outer):
            return {**outer, **self.get()}

    def _all_last(self) -> bool:
        return self.lasts and (self.outer is None or self.outer._all_last())


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
    """What `context` returns: for ``with``, or as a decorator."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        known = partial(json.loads, self._text)
        _current.set(Frame(_current.get(), known, lasts=True))

    def __exit__(self, *exc: object) -> None:
        frame = _current.get()
        assert frame
        _current.set(frame.outer)

    def __call__(self, function: F) -> F:
        """Return the function with this context around each of its calls."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(
            function
        ):
            raise TypeError(
                f"{function.__qualname__}() is a generator, which runs after its call"
                " has returned: write `with context(…)` inside of it."
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
    Say who or why, for the changes made in a ``with`` block or a decorated function.

    Blocks nest: an inner one adds to the outer one, and overrides it.

    Args:
        data: what `Event.context` will have; anything that Django's JSON encoder
            takes.

    Raises:
        TypeError: it does not take the data.
    """
    return Context(_to_json(data))


def current() -> dict[str, Any] | None:
    """Return what a change that is made now would have as its context."""
    frame = _current.get()
    return None if frame is None else json.loads(frame.text())


def current_text() -> str:
    """Return as JSON what a change made now gets as its context."""
    frame = _current.get()
    return EMPTY if frame is None else frame.text()


def is_set() -> bool:
    """Return whether any block or request has set a context."""
    return _current.get() is not None


def enclosed(get: Callable[[], dict[str, Any]]) -> Frame:
    """Return a frame within the current one whose data may differ each time."""
    return Frame(_current.get(), get, lasts=False)


def _to_json(data: dict[str, Any]) -> str:
    try:
        return to_json(data)
    except (TypeError, ValueError) as error:
        raise TypeError(f"A context must be of JSON: {error}") from error
