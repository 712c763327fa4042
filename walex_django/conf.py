"""The streams that ``settings.WALEX`` describes."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.postgresql.base import DatabaseWrapper

from .replication.connection import parse_url
from .replication.slots import MAX_NAME_LENGTH

ALL_TABLES: Final = "*"
"""In ``SUBSCRIPTIONS``: every table that the publication has."""


OnError: TypeAlias = Literal["park", "stop", "skip"]
MAX_BACKOFF: Final = 30.0
"""Longest wait before something is tried again, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """
    One stream: a slot on a database, what it publishes and how it is read.

    Attributes:
        name: its key in ``WALEX``.
        database: alias in ``DATABASES``.
        url: where to connect instead of there, for replication only; a secret.
        publications: names of them.
        slot_name: lower-case letters, digits and underscores.
        durable_slot: the slot outlives the connection.
        failover: standbys keep a copy of the slot.
        subscriptions: tables to deliver, as written in the settings.
        max_batch: most events handed over at once.
        status_interval: seconds between two signs of life for the server.
        messages: prefixes of the logical messages to deliver, or ``"*"``.
        atomic: receivers' database work and the checkpoint in one transaction.
        on_error: what becomes of a receiver's call when the retries are used up.
        max_retries: how often a call that failed is made again.
        retry_backoff: seconds before the first of these; each next wait is twice as
            long, up to `MAX_BACKOFF`.
    """

    name: str
    database: str = DEFAULT_DB_ALIAS
    url: str | None = field(default=None, repr=False)
    publications: tuple[str, ...]
    slot_name: str
    durable_slot: bool = False
    failover: bool = False
    subscriptions: tuple[str, ...] = (ALL_TABLES,)
    max_batch: int = 1000
    status_interval: float = 10
    messages: tuple[str, ...] = ()
    atomic: bool = False
    on_error: OnError = "park"
    max_retries: int = 5
    retry_backoff: float = 0.5

    def retry_delays(self) -> Iterator[float]:
        """Return the seconds to wait before each retry."""
        for attempt in range(self.max_retries):
            yield min(self.retry_backoff * 2**attempt, MAX_BACKOFF)

    def connection_parameters(self) -> dict[str, Any]:
        """Return libpq's parameters for this stream's server; they hold secrets."""
        if self.url is not None:
            return parse_url(self.url)
        return libpq_parameters(self.database)


def libpq_parameters(alias: str) -> dict[str, Any]:
    """Return libpq's parameters for a database of Django's; they hold secrets."""
    wrapper = cast("DatabaseWrapper", connections[alias])
    # The others belong to Django's cursors.
    return {
        key: value
        for key, value in wrapper.get_connection_params().items()
        if key not in {"context", "cursor_factory", "prepare_threshold"}
    }


class Problem(NamedTuple):
    """Something wrong in the settings: the id of its check, what, and the mend."""

    id: str
    message: str
    hint: str


def get_config(stream: str) -> StreamConfig:
    """
    Return what is configured for a stream.

    Args:
        stream: its key in ``WALEX``.

    Raises:
        ImproperlyConfigured: there is no such stream, or its settings are wrong.
    """
    try:
        return get_configs()[stream]
    except KeyError:
        raise ImproperlyConfigured(
            f'There is no stream "{stream}" in WALEX.'
            f" {_did_you_mean(stream, get_configs())}"
        ) from None


def get_configs() -> dict[str, StreamConfig]:
    """
    Return all streams by name.

    Raises:
        ImproperlyConfigured: there are none, or the settings are wrong.
    """
    if not _cache:
        configs, problems = read(getattr(settings, "WALEX", None))
        if problems:
            raise ImproperlyConfigured(
                " ".join(f"{problem.message} {problem.hint}" for problem in problems)
            )
        _cache.update(configs)
    return dict(_cache)


_cache: dict[str, StreamConfig] = {}


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting in {"WALEX", "DATABASES"}:
        _cache.clear()


setting_changed.connect(_forget, dispatch_uid="walex_django.conf")


def read(walex: object) -> tuple[dict[str, StreamConfig], list[Problem]]:
    """
    Read ``settings.WALEX``.

    Returns the streams that are right, by name, and what is wrong with the others.
    """
    if walex is None or walex == {}:
        hint = 'Add WALEX = {"default": {"PUBLICATION": "…"}} to your settings.'
        return {}, [Problem("W001", "WALEX describes no stream.", hint)]
    if not isinstance(walex, Mapping):
        hint = 'Write WALEX = {"default": {…}}: stream names with their settings.'
        return {}, [Problem("E001", "WALEX must be a dict.", hint)]
    if walex.keys() <= _KEYS.keys():
        hint = 'Put them under the name of a stream: WALEX = {"default": {…}}.'
        return {}, [Problem("E001", "WALEX has the settings of a stream.", hint)]
    configs: dict[str, StreamConfig] = {}
    problems: list[Problem] = []
    for name, options in walex.items():
        config, wrong = _read_stream(name, options)
        problems += wrong
        if config:
            configs[config.name] = config
    return configs, problems + _shared_slots(configs.values())


def _read_stream(
    name: object, options: object
) -> tuple[StreamConfig | None, list[Problem]]:
    path = f"WALEX[{name!r}]"
    if not (isinstance(name, str) and name):
        hint = "Give the stream a name, such as 'default'."
        return None, [Problem("E001", f"{path}: the key must be a string.", hint)]
    if not isinstance(options, Mapping):
        hint = f'Write {path} = {{"PUBLICATION": "…"}}.'
        return None, [Problem("E001", f"{path} must be a dict.", hint)]
    default_name = slot_name(f"{name}_walex")
    values: dict[str, Any] = {}
    problems = []
    options = {"PUBLICATION": default_name, "SLOT_NAME": default_name, **options}
    for key, value in options.items():
        if key not in _KEYS:
            problems.append(
                Problem(
                    "E002",
                    f"{path} has an unknown key {key!r}.",
                    _did_you_mean(key, _KEYS),
                )
            )
            continue
        attribute, parse = _KEYS[key]
        try:
            values[attribute] = parse(value)
        except ValueError as error:
            problem, _, hint = str(error).partition("\n")
            if problem.startswith("must be") and key != "URL":  # a secret
                problem = f"{problem}, not {value!r}"
            problems.append(Problem("E003", f"{path}[{key!r}] {problem}.", hint))
    if problems:
        return None, problems
    config = StreamConfig(name=name, **values)
    problems = _database_problems(path, config) + _slot_problems(path, config)
    return (None if problems else config), problems


def _database_problems(path: str, config: StreamConfig) -> list[Problem]:
    if config.database not in settings.DATABASES:
        return [
            Problem(
                "E004",
                f"{path}['DATABASE'] is {config.database!r}, which DATABASES lacks.",
                _did_you_mean(config.database, settings.DATABASES),
            )
        ]
    if connections[config.database].vendor != "postgresql":
        return [
            Problem(
                "E004",
                f"{path}: the database {config.database!r} is not PostgreSQL.",
                "Set DATABASE to an alias with the engine"
                " django.db.backends.postgresql.",
            )
        ]
    return []


def _slot_problems(path: str, config: StreamConfig) -> list[Problem]:
    if config.durable_slot:
        return []
    return [
        Problem(
            "E007",
            f"{path}[{key!r}] is for durable slots, and this stream has a temporary"
            " one.",
            f"Add 'DURABLE_SLOT': True, or leave {key!r} out.",
        )
        for key, chosen in (("ATOMIC", config.atomic), ("FAILOVER", config.failover))
        if chosen
    ]


def _shared_slots(configs: Iterable[StreamConfig]) -> list[Problem]:
    problems = []
    first: dict[object, StreamConfig] = {}
    for config in configs:
        place = (config.database, config.url, config.slot_name)
        other = first.setdefault(place, config)
        if other is not config:
            problems.append(
                Problem(
                    "E005",
                    f"The streams {other.name!r} and {config.name!r} share the slot"
                    f" {config.slot_name!r}.",
                    "Give each a SLOT_NAME of its own.",
                )
            )
    return problems


def slot_name(text: str) -> str:
    """Return ``text`` as a slot may be called: in lower case, the rest underscores."""
    return re.sub(r"[^a-z0-9_]", "_", text.lower())


def _did_you_mean(wrong: object, known: Any) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(wrong).lower(), names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {names[close[0]]!r}?"
    return f"Known are: {', '.join(known)}."


# Parsers: a setting's value in, ours out; ValueError("must be …\nhint").


def _string(value: object) -> str:
    if not (isinstance(value, str) and value):
        raise ValueError("must be a string that is not empty")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be True or False")
    return value


def _strings(value: object) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(
        isinstance(each, str) for each in values
    ):
        raise ValueError("must be a string or a list of strings")
    return tuple(values)


def _publications(value: object) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(map(_string, _strings(value))))
    for name in names:
        if len(name.encode()) > MAX_NAME_LENGTH:
            raise ValueError(
                f"has a name of more than {MAX_NAME_LENGTH} bytes: {name!r}"
            )
    if not names:
        raise ValueError("must name a publication")
    return names


def _slot_name(value: object) -> str:
    name = slot_name(_string(value))
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"is longer than {MAX_NAME_LENGTH} characters\nChoose a shorter one."
        )
    return name


def _subscriptions(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError("must be a list of strings")
    entries = tuple(_string(entry) for entry in value)
    if not entries:
        raise ValueError(
            f"is empty: nothing would ever arrive\nWrite [{ALL_TABLES!r}] for all."
        )
    for entry in entries:
        owner, dot, name = entry.partition(".")
        if entry != ALL_TABLES and (owner in {"", "*"} or not dot or not name):
            raise ValueError(
                f"has the entry {entry!r}, which names no table\n"
                "Write 'app.Model', 'app.*', 'schema.table' or 'schema.*'."
            )
    return entries


def _url(value: object) -> str | None:
    if value is None:
        return None
    url = _string(value)
    parse_url(url)
    return url


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a whole number of at least 1")
    return value


def _seconds(value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (0 < value < math.inf)
    ):
        raise ValueError("must be a number of seconds above 0")
    return value


def _retries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be a whole number, 0 for no retries")
    return value


def _on_error(value: object) -> str:
    if value not in get_args(OnError):
        listed = ", ".join(map(repr, get_args(OnError)))
        raise ValueError(f"must be one of {listed}")
    return str(value)


_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "DATABASE": ("database", _string),
    "URL": ("url", _url),
    "PUBLICATION": ("publications", _publications),
    "SLOT_NAME": ("slot_name", _slot_name),
    "DURABLE_SLOT": ("durable_slot", _boolean),
    "FAILOVER": ("failover", _boolean),
    "SUBSCRIPTIONS": ("subscriptions", _subscriptions),
    "MAX_BATCH": ("max_batch", _count),
    "STATUS_INTERVAL": ("status_interval", _seconds),
    "MESSAGES": ("messages", _strings),
    "ATOMIC": ("atomic", _boolean),
    "ON_ERROR": ("on_error", _on_error),
    "MAX_RETRIES": ("max_retries", _retries),
    "RETRY_BACKOFF": ("retry_backoff", _seconds),
}
