"""Values of sensitive columns, kept out of logs and pages."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, time
from typing import Any, Final
from urllib.parse import quote, quote_plus
from uuid import UUID

from walex_django.pgoutput.messages import UNCHANGED, Value

from .event import Event

MASK: Final = "••••"
"""What is shown in the place of a value."""

_WORD = 4  # characters: what is shorter is hidden where it is a word by itself
_LONG = 32  # characters: of what is longer, a beginning is hidden too
_BEGINNING = 16
_NESTED = (Mapping, list, tuple, set, frozenset)


class Mask:
    """
    Hides values in texts, however these write them.

    Args:
        values: of Python, or texts; also what is in their lists and dicts.
        is_needed: there are sensitive columns, though perhaps no values.
    """

    def __init__(self, values: Iterable[Any] = (), *, is_needed: bool = False) -> None:
        found = {_folded(form) for value in values for form in _forms(value)}
        self._secrets = sorted(found - {""})
        self.is_needed = is_needed or bool(self._secrets)

    def __call__(self, text: str) -> str:
        """Return a text without the values."""
        if not self._secrets:
            return text
        folded = _folded(text)
        spans = sorted(
            span for secret in self._secrets for span in _places(secret, folded)
        )
        pieces, done = [], 0
        for start, end in spans:
            if start >= done:
                pieces += [text[done:start], MASK]
            done = max(done, end)
        return "".join([*pieces, text[done:]])

    def log(self, error: BaseException) -> tuple[str, BaseException | None]:
        """
        Return what a log message ends with, and its ``exc_info``.

        Where there are sensitive columns, the traceback is text in the message: those
        who get the error itself would show what it was raised with.
        """
        if not self.is_needed:
            return "", error
        text = self("".join(traceback.format_exception(error)))
        return f"\n{text.rstrip()}", None


def of_events(events: Iterable[Event]) -> Mask:
    """Return what hides the sensitive values of events."""
    chosen = [event for event in events if event._table.sensitive]
    return Mask(
        (value for event in chosen for value in values(event, event._table.sensitive)),
        is_needed=bool(chosen),
    )


def is_needed(arguments: Mapping[str, Any]) -> bool:
    """Return whether a receiver is called with sensitive values."""
    if "event" in arguments:
        return bool(arguments["event"]._table.sensitive)
    return any(event._table.sensitive for event in arguments.get("events", ()))


def of_call(arguments: Mapping[str, Any]) -> Mask:
    """Return what hides the sensitive values that a receiver is called with."""
    if "event" in arguments:
        return of_events([arguments["event"]])
    return of_events(arguments.get("events", ()))


def values(event: Event, columns: frozenset[str]) -> Iterator[Any]:
    """Return the values of an event's columns: the server's text, ours, the ORM's."""
    table = event._table
    places = [p for p, name in enumerate(table.column_names) if name in columns]
    for row in (event._old_row(), event._new_row()):
        for place in places if row is not None else ():
            assert row is not None
            raw = row[place]
            if raw is None or raw is UNCHANGED:
                continue
            yield _text(raw)
            with suppress(Exception):  # whatever the loaders of others raise
                yield table.value(place, row)
            with suppress(Exception):
                yield table.field_value(place, raw)


def _text(raw: Value) -> str:
    assert isinstance(raw, bytes)
    return raw.decode(errors="surrogateescape")


def _forms(value: object) -> Iterator[str]:
    """Return how people and programs write a value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each is None or each is UNCHANGED:
            continue
        if isinstance(each, str):
            yield from _spellings(each)
            continue
        if each is value or not isinstance(each, _NESTED):
            with suppress(Exception):  # of types of others, and of deep nesting
                yield from (str(each), repr(each))
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, _NESTED):
            waiting += each
        elif isinstance(each, bytes | bytearray | memoryview):
            yield bytes(each).hex()
            waiting.append(bytes(each).decode(errors="replace"))
        elif isinstance(each, date | time):
            yield each.isoformat()
        elif isinstance(each, UUID):
            yield each.hex


def _spellings(text: str) -> Iterator[str]:
    yield text
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    with suppress(UnicodeError):
        yield from (quote(text), quote_plus(text))
    # Tracebacks of groups of errors indent each line.
    yield from (line.strip() for line in text.splitlines() if len(line) >= _WORD)


def _places(secret: str, text: str) -> Iterator[tuple[int, int]]:
    """Return where a text has a secret, or enough of its beginning."""
    sought = secret[:_BEGINNING] if len(secret) > _LONG else secret
    start = text.find(sought)
    while start >= 0:
        end = start + len(sought)
        if len(sought) < len(secret):
            rest = text[start : start + len(secret)]
            end = start + _common(secret, rest)
        if _is_anywhere(secret) or _is_word(text, start, end):
            yield start, end
        start = text.find(sought, end)


def _common(a: str, b: str) -> int:
    """Return how many characters two texts begin with that are the same."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))


def _is_anywhere(secret: str) -> bool:
    """Return whether a text is told by a secret within a word."""
    return len(secret) >= _WORD and secret not in {"true", "false"}


def _is_word(text: str, start: int, end: int) -> bool:
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return not any(each.isalnum() or each == "_" for each in (before, after))


def _folded(text: str) -> str:
    """Return a text in lower case, as long as before."""
    folded = text.lower()
    if len(folded) == len(text):
        return folded
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
