"""The streams that ``settings.WALEX`` describes."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.postgresql.base import DatabaseWrapper

from .filters import ALL_TABLES, Filter
from .replication.connection import parse_url
from .replication.slots import MAX_NAME_LENGTH

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
        filters: what is not delivered of tables that are named so too.
        modules: dotted names of those that have handlers, besides the apps' ``walex``.
        message_middleware: is given each message, and `deliver`; or its dotted path.
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
    filters: Mapping[str, Filter] = field(default_factory=dict, hash=False)
    modules: tuple[str, ...] = ()
    message_middleware: Callable[..., object] | str | None = None
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
    # Without the lock, where it can be: modules that ask are imported under it.
    if not _cache:
        with _lock:
            _cache.update(_require(getattr(settings, "WALEX", None)))
    return dict(_cache)


def add_config(stream: str, key: str, values: Any) -> None:
    """
    Add to a list of a stream's settings, or to its ``FILTERS``.

    The listener of this process follows at the next transaction. May be called from
    any thread.

    Args:
        stream: its key in ``WALEX``.
        key: ``"SUBSCRIPTIONS"``, ``"FILTERS"``, ``"MODULES"`` or ``"MESSAGES"``.
        values: a list of entries, or one of them; of ``FILTERS`` a dict.

    Raises:
        ImproperlyConfigured: there is no such stream, or it is no such setting.

    Source: WalEx, ``WalEx.Config.add_config/3``.
    """

    def add(now: Any) -> Any:
        if key == "FILTERS":
            return {**now, **_given(key, _filters_by_table, values)}
        return list(dict.fromkeys([*_listed(now), *_given(key, _strings, values)]))

    _change(stream, key, add, keys=_LISTS)


def remove_config(stream: str, key: str, value: Any) -> None:
    """
    Take an entry out of a list of a stream's settings, or of its ``FILTERS``.

    Args:
        stream: its key in ``WALEX``.
        key: see `add_config`.
        value: the entry, or a list of them; of ``FILTERS`` the table.

    Raises:
        ImproperlyConfigured: see `add_config`; or the setting has no such entry.

    Source: WalEx, ``WalEx.Config.remove_config/3``.
    """

    def remove(now: Any) -> Any:
        gone, there = _given(key, _strings, value), _listed(now)
        for each in gone:
            if each not in there:
                raise ImproperlyConfigured(
                    f"{key} of the stream {stream!r} has no {each!r}."
                    f" {_did_you_mean(each, there)}"
                )
        if key == "FILTERS":
            return {table: of for table, of in now.items() if table not in gone}
        return [each for each in there if each not in gone]

    _change(stream, key, remove, keys=_LISTS)


def replace_config(stream: str, key: str, value: Any) -> None:
    """
    Set one of a stream's settings.

    Args:
        stream: its key in ``WALEX``.
        key: one that may change while the stream runs: those of `add_config`,
            ``MAX_BATCH``, ``ON_ERROR``, ``MAX_RETRIES``, ``RETRY_BACKOFF``; ``URL`` and
            ``STATUS_INTERVAL``, which count from the next connection on.
        value: as in ``WALEX``.

    Raises:
        ImproperlyConfigured: there is no such stream, it is no such setting, or the
            value is wrong.

    Source: WalEx, ``WalEx.Config.replace_config/3``.
    """
    _change(stream, key, lambda _: value, keys=RUNTIME)


def override(stream: str, changed: Mapping[str, Any]) -> None:
    """
    Put settings of a stream over those of ``WALEX``, in the place of what was so put.

    What `add_config` and its like have changed since then stays, if the same is put
    again.

    Args:
        stream: its key in ``WALEX``.
        changed: values by key.

    Raises:
        ImproperlyConfigured: see `replace_config`.
    """
    for key in changed:
        if key not in RUNTIME:
            raise ImproperlyConfigured(f"{key!r} cannot be changed while it runs.")
    with _lock:
        put = _put.get(stream, {})
        if put == dict(changed):
            return
        now = _changed.get(stream, {})
        others = {key: value for key, value in now.items() if key not in put}
        _set(stream, {**others, **changed})
        _put[stream] = dict(changed)


def written(stream: str) -> dict[str, Any]:
    """Return a stream's settings as they are written, with what was changed since."""
    walex = getattr(settings, "WALEX", None)
    return {**_DEFAULTS, **(walex or {}).get(stream, {}), **_changed.get(stream, {})}


def attribute(key: str) -> str:
    """Return the attribute of `StreamConfig` that a key of the settings sets."""
    return _KEYS[key][0]


def follow(config: StreamConfig) -> StreamConfig:
    """Return a stream's configuration with what was changed since."""
    changed = _changed.get(config.name)
    if not changed:
        return config
    now = get_config(config.name)
    attributes = map(attribute, changed)
    return replace(config, **{name: getattr(now, name) for name in attributes})


def _change(
    stream: str, key: str, change: Callable[[Any], Any], *, keys: Collection[str]
) -> None:
    get_config(stream)
    if key not in keys:
        raise ImproperlyConfigured(
            f"{key!r} is no setting that can be changed so. {_other_way(key, keys)}"
        )
    with _lock:
        value = change(written(stream).get(key))
        _set(stream, {**_changed.get(stream, {}), key: value})


def _other_way(key: str, keys: Collection[str]) -> str:
    if key in RUNTIME:
        return "Replace it: it is no list."
    if key in _KEYS:
        return "Change settings.WALEX, and start the listener again."
    return _did_you_mean(key, keys)


def _given(key: str, parse: Callable[[object], Any], value: object) -> Any:
    """Return what is to be added to a setting, or taken out."""
    try:
        return parse(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{key} {error}, not {value!r}.") from None


def _listed(now: Any) -> list[str]:
    return [now] if isinstance(now, str) else list(now)


def _set(stream: str, changed: Mapping[str, Any]) -> None:
    """Change a stream's settings if they are right so."""
    global generation  # noqa: PLW0603
    get_config(stream)
    together = {**_changed, stream: dict(changed)}
    walex = dict(settings.WALEX)
    for name, of in together.items():
        walex[name] = {**walex[name], **of}
    configs = _require(walex)
    _require_found(configs[stream], load="MODULES" in changed)
    _changed[stream] = together[stream]
    _cache.update(configs)
    generation += 1


def _require_found(config: StreamConfig, *, load: bool) -> None:
    """Raise unless all that a stream's settings name is there, and can be imported."""
    from . import checks, handlers

    _raise(checks.unknown_names(config))
    if not load:
        return
    try:
        handlers.load(config.modules)
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise ImproperlyConfigured(
            f"WALEX[{config.name!r}]['MODULES'] cannot be imported: {error!r}."
        ) from error


def _require(walex: object) -> dict[str, StreamConfig]:
    configs, problems = read(walex)
    _raise(problems)
    return configs


def _raise(problems: Collection[Problem]) -> None:
    if problems:
        raise ImproperlyConfigured(
            " ".join(f"{problem.message} {problem.hint}" for problem in problems)
        )


generation = 0
"""Changes with each change of a stream's settings while it runs."""

_lock = RLock()
_cache: dict[str, StreamConfig] = {}
_changed: dict[str, dict[str, Any]] = {}
_put: dict[str, dict[str, Any]] = {}  # what `override` has put there


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting in {"WALEX", "DATABASES"}:
        _cache.clear()
        _changed.clear()
        _put.clear()


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
    return tuple(map(_entry, entries))


def _entry(entry: str) -> str:
    owner, dot, name = entry.partition(".")
    if entry != ALL_TABLES and (owner in {"", "*"} or not dot or not name):
        raise ValueError(
            f"has the entry {entry!r}, which names no table\n"
            "Write 'app.Model', 'app.*', 'schema.table' or 'schema.*'."
        )
    return entry


def _filters(value: object) -> dict[str, Filter]:
    tables = _filters_by_table(value)
    return {_entry(_string(table)): _filter(table, of) for table, of in tables.items()}


def _filters_by_table(value: object) -> Mapping[Any, object]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a dict of tables with their filters")
    return value


def _filter(table: str, options: object) -> Filter:
    if not isinstance(options, Mapping):
        raise ValueError(f"has no dict for {table!r}")
    try:
        return read_filter(options)
    except ValueError as error:
        raise ValueError(f"has a wrong filter for {table!r}: {error}") from None


def read_filter(options: Mapping[Any, object]) -> Filter:
    """
    Return the filter that is written so in the settings.

    Raises:
        ValueError: says which key is unknown, or which value is none.
    """
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in _FILTER_KEYS:
            raise ValueError(f"unknown key {key!r}\n{_did_you_mean(key, _FILTER_KEYS)}")
        try:
            values[key] = _FILTER_KEYS[key](value)
        except ValueError as error:
            raise ValueError(f"{key} {error}, not {value!r}") from None
    return Filter(**values)


def _record(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise ValueError("must be a dict of values by field")
    return dict(value)


def _callable(value: object) -> Callable[..., object] | str | None:
    if value is None or callable(value):
        return value
    if not (isinstance(value, str) and "." in value):
        raise ValueError("must be a function or its dotted path")
    return value


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
    "FILTERS": ("filters", _filters),
    "MODULES": ("modules", _strings),
    "MESSAGE_MIDDLEWARE": ("message_middleware", _callable),
    "MAX_BATCH": ("max_batch", _count),
    "STATUS_INTERVAL": ("status_interval", _seconds),
    "MESSAGES": ("messages", _strings),
    "ATOMIC": ("atomic", _boolean),
    "ON_ERROR": ("on_error", _on_error),
    "MAX_RETRIES": ("max_retries", _retries),
    "RETRY_BACKOFF": ("retry_backoff", _seconds),
}

_FILTER_KEYS: dict[str, Callable[[object], Any]] = {
    "unwatched_records": _record,
    "unwatched_fields": _strings,
    "changed": _strings,
    "where": _callable,
}

_LISTS = ("SUBSCRIPTIONS", "FILTERS", "MODULES", "MESSAGES")
RUNTIME = (
    *_LISTS,
    *("MAX_BATCH", "ON_ERROR", "MAX_RETRIES", "RETRY_BACKOFF"),
    *("URL", "STATUS_INTERVAL"),
)
"""Keys that may change while the stream runs."""

_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_LISTS, ()),
    "SUBSCRIPTIONS": (ALL_TABLES,),
    "FILTERS": {},
}
