"""Mask the values of sensitive columns in logs and pages."""

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
"""The replacement for a masked value."""

_MIN_LENGTH = 4  # shorter values are masked only where they are whole words
_LONG = 32  # of longer values, a truncated beginning is masked, too
_PREFIX = 16  # the shortest such beginning
_NESTED = (Mapping, list, tuple, set, frozenset)


class Mask:
    """
    Masks values in texts, in any of their usual notations.

    Args:
        values: Python values or texts to mask, including the items of containers.
        is_needed: Whether there are sensitive columns, even if they have no values.
    """

    def __init__(self, values: Iterable[Any] = (), *, is_needed: bool = False) -> None:
        found = {_folded(form) for value in values for form in _forms(value)}
        self._secrets = sorted(found - {""})
        self.is_needed = is_needed or bool(self._secrets)

    def __call__(self, text: str) -> str:
        """Return a text with the values masked."""
        if not self._secrets:
            return text
        folded = _folded(text)
        spans = sorted(
            span for secret in self._secrets for span in _spans(secret, folded)
        )
        pieces, done = [], 0
        for start, end in spans:
            if start >= done:
                pieces += [text[done:start], MASK]
            done = max(done, end)
        return "".join([*pieces, text[done:]])

    def log(self, error: BaseException) -> tuple[str, BaseException | None]:
        """
        Return the suffix of a log message about the error, and its ``exc_info``.

        If there are sensitive columns, the suffix is the masked traceback and there is
        no ``exc_info``, because log handlers would show the error's arguments.
        """
        if not self.is_needed:
            return "", error
        text = self("".join(traceback.format_exception(error)))
        return f"\n{text.rstrip()}", None


def of_events(events: Iterable[Event]) -> Mask:
    """Return the mask for the sensitive values of events."""
    sensitive = [event for event in events if event._table.sensitive]
    return Mask(
        (
            value
            for event in sensitive
            for value in values(event, event._table.sensitive)
        ),
        is_needed=bool(sensitive),
    )


def is_needed(arguments: Mapping[str, Any]) -> bool:
    """Return whether the arguments of a receiver call contain sensitive values."""
    if "event" in arguments:
        return bool(arguments["event"]._table.sensitive)
    return any(event._table.sensitive for event in arguments.get("events", ()))


def of_call(arguments: Mapping[str, Any]) -> Mask:
    """Return the mask for the sensitive values in the arguments of a receiver call."""
    if "event" in arguments:
        return of_events([arguments["event"]])
    return of_events(arguments.get("events", ()))


def values(event: Event, columns: frozenset[str]) -> Iterator[Any]:
    """Yield the values of columns: the server's text, the Python and field values."""
    table = event._table
    places = [p for p, name in enumerate(table.column_names) if name in columns]
    for row in (event._old_row(), event._new_row()):
        for place in places if row is not None else ():
            assert row is not None
            raw = row[place]
            if raw is None or raw is UNCHANGED:
                continue
            yield _text(raw)
            with suppress(Exception):  # custom loaders may raise anything
                yield table.value(place, row)
            with suppress(Exception):
                yield table.field_value(place, raw)


def _text(raw: Value) -> str:
    assert isinstance(raw, bytes)
    return raw.decode(errors="surrogateescape")


def _forms(value: object) -> Iterator[str]:
    """Yield the notations in which people and programs write a value."""
    pending = [value]
    while pending:
        item = pending.pop()
        if item is None or item is UNCHANGED:
            continue
        if isinstance(item, str):
            yield from _spellings(item)
            continue
        if item is value or not isinstance(item, _NESTED):
            with suppress(Exception):  # custom types and deep nesting may raise
                yield from (str(item), repr(item))
        if isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, _NESTED):
            pending += item
        elif isinstance(item, bytes | bytearray | memoryview):
            yield bytes(item).hex()
            pending.append(bytes(item).decode(errors="replace"))
        elif isinstance(item, date | time):
            yield item.isoformat()
        elif isinstance(item, UUID):
            yield item.hex


def _spellings(text: str) -> Iterator[str]:
    yield text
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    with suppress(UnicodeError):
        yield from (quote(text), quote_plus(text))
    # Tracebacks of exception groups indent each line.
    yield from (line.strip() for line in text.splitlines() if len(line) >= _MIN_LENGTH)


def _spans(secret: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of a text with a secret, or with a long secret's beginning."""
    prefix = secret[:_PREFIX] if len(secret) > _LONG else secret
    start = text.find(prefix)
    while start >= 0:
        end = start + len(prefix)
        if len(prefix) < len(secret):
            rest = text[start : start + len(secret)]
            end = start + _common_length(secret, rest)
        if _is_masked_within_words(secret) or _is_word(text, start, end):
            yield start, end
        start = text.find(prefix, end)


def _common_length(a: str, b: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))


def _is_masked_within_words(secret: str) -> bool:
    return len(secret) >= _MIN_LENGTH and secret not in {"true", "false"}


def _is_word(text: str, start: int, end: int) -> bool:
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return not any(char.isalnum() or char == "_" for char in (before, after))


def _folded(text: str) -> str:
    """Return a text in lower case, with the same length."""
    folded = text.lower()
    if len(folded) == len(text):
        return folded
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
