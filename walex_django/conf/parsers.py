"""The parsers of the values in ``settings.WALEX``."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from walex_django.filters import Filter
from walex_django.replication.connection import parse_url
from walex_django.replication.identities import IDENTITIES
from walex_django.replication.slots import MAX_NAME_LENGTH
from walex_django.subscriptions import ALL_TABLES

from .stream import OnError


def slot_name(text: str) -> str:
    """Convert a text to a valid slot name: lower case, with underscores."""
    return re.sub(r"[^a-z0-9_]", "_", text.lower())


def did_you_mean(wrong: object, known: Any) -> str:
    """Suggest the known name that is most like a wrong one, or list all of them."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(wrong).lower(), names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {names[close[0]]!r}?"
    return f"Choices are: {', '.join(known)}."


# A parser converts the value of a setting for StreamConfig. If the value is invalid, it
# raises ValueError("must be …\nhint"): the message continues the name of the setting.


def _string(value: object) -> str:
    if not (isinstance(value, str) and value):
        raise ValueError("must be a non-empty string")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be True or False")
    return value


def read_strings(value: object) -> tuple[str, ...]:
    """Parse a string or a list of strings; a parser like those of `KEYS`."""
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(
        isinstance(item, str) for item in values
    ):
        raise ValueError("must be a string or a list of strings")
    return tuple(values)


def _publications(value: object) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(map(_string, read_strings(value))))
    for name in names:
        if len(name.encode()) > MAX_NAME_LENGTH:
            raise ValueError(
                f"contains a name longer than {MAX_NAME_LENGTH} bytes: {name!r}"
            )
    if not names:
        raise ValueError("must name at least one publication")
    return names


def _slot_name(value: object) -> str:
    name = slot_name(_string(value))
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"is longer than {MAX_NAME_LENGTH} characters\nChoose a shorter name."
        )
    return name


def _subscriptions(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError("must be a list of strings")
    entries = tuple(_string(entry) for entry in value)
    if not entries:
        raise ValueError(
            "is empty, so the stream would not deliver any changes\n"
            f"Write [{ALL_TABLES!r}] to subscribe to all tables."
        )
    return tuple(map(_entry, entries))


def _entry(entry: str) -> str:
    owner, dot, name = entry.partition(".")
    if entry != ALL_TABLES and (owner in {"", "*"} or not dot or not name):
        raise ValueError(
            f"contains {entry!r}, which is not the name of a table\n"
            "Write 'app.Model', 'app.*', 'schema.table' or 'schema.*'."
        )
    return entry


def _filters(value: object) -> dict[str, Filter]:
    tables = read_filters_by_table(value)
    return {
        _entry(_string(table)): _filter(table, options)
        for table, options in tables.items()
    }


def read_filters_by_table(value: object) -> Mapping[Any, object]:
    """Check that a value of ``FILTERS`` is a dict; a parser like those of `KEYS`."""
    if not isinstance(value, Mapping):
        raise ValueError("must be a dict of filters by table")
    return value


def _filter(table: str, options: object) -> Filter:
    if not isinstance(options, Mapping):
        raise ValueError(f"contains a filter for {table!r} that is not a dict")
    try:
        return read_filter(options)
    except ValueError as error:
        raise ValueError(f"contains an invalid filter for {table!r}: {error}") from None


def read_filter(options: Mapping[Any, object]) -> Filter:
    """
    Parse a filter.

    Args:
        options: The filter's values by key. Keys are case-insensitive.

    Raises:
        ValueError: If a key is unknown or repeated, or a value is invalid.
    """
    values: dict[str, Any] = {}
    for key, value in options.items():
        name = str(key).lower()
        if name not in _FILTER_KEYS:
            raise ValueError(f"unknown key {key!r}\n{did_you_mean(key, _FILTER_KEYS)}")
        if name in values:
            raise ValueError(f"{name} is given twice")
        try:
            values[name] = _FILTER_KEYS[name](value)
        except ValueError as error:
            raise ValueError(f"{key} {error}, not {value!r}") from None
    return Filter(**values)


def _identities(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(identity, str) and identity for identity in value.values()
    ):
        raise ValueError(
            "must be a dict that maps tables to 'FULL', 'DEFAULT', 'NOTHING' or the"
            " name of a unique index"
        )
    return {
        _entry(_string(table)): identity.upper()
        if identity.upper() in IDENTITIES
        else identity
        for table, identity in value.items()
    }


def _record(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise ValueError("must be a dict of values by field name")
    return dict(value)


def _callable(value: object) -> Callable[..., object] | str | None:
    if value is None or callable(value):
        return value
    if not (isinstance(value, str) and "." in value):
        raise ValueError("must be a callable or its dotted path")
    return value


def _url(value: object) -> str | None:
    if value is None:
        return None
    url = _string(value)
    parse_url(url)
    return url


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be an integer of at least 1")
    return value


def _seconds(value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (0 < value < math.inf)
    ):
        raise ValueError("must be a number of seconds greater than 0")
    return value


def _retries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be an integer of at least 0 (0 disables retries)")
    return value


def _threshold(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be an integer of at least 0 (0 disables the breaker)")
    return value


def _on_error(value: object) -> str:
    if value not in get_args(OnError):
        choices = ", ".join(map(repr, get_args(OnError)))
        raise ValueError(f"must be one of {choices}")
    return str(value)


KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "DATABASE": ("database", _string),
    "URL": ("url", _url),
    "PUBLICATION": ("publications", _publications),
    "SLOT_NAME": ("slot_name", _slot_name),
    "DURABLE_SLOT": ("durable_slot", _boolean),
    "FAILOVER": ("failover", _boolean),
    "SUBSCRIPTIONS": ("subscriptions", _subscriptions),
    "FILTERS": ("filters", _filters),
    "REPLICA_IDENTITY": ("replica_identity", _identities),
    "MODULES": ("modules", read_strings),
    "MESSAGE_MIDDLEWARE": ("message_middleware", _callable),
    "MAX_BATCH": ("max_batch", _count),
    "STATUS_INTERVAL": ("status_interval", _seconds),
    "MESSAGES": ("messages", read_strings),
    "ATOMIC": ("atomic", _boolean),
    "ON_ERROR": ("on_error", _on_error),
    "MAX_RETRIES": ("max_retries", _retries),
    "RETRY_BACKOFF": ("retry_backoff", _seconds),
    "BREAKER_THRESHOLD": ("breaker_threshold", _threshold),
    "PAUSED": ("paused", _boolean),
}
"""The attribute of `StreamConfig` and the parser for each key of the settings."""

_FILTER_KEYS: dict[str, Callable[[object], Any]] = {
    "unwatched_records": _record,
    "unwatched_fields": read_strings,
    "changed": read_strings,
    "where": _callable,
    "sensitive_fields": read_strings,
}
