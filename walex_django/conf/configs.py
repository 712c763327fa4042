"""The configured streams: ``settings.WALEX`` and the changes made at runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from threading import RLock
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from walex_django.subscriptions import ALL_TABLES

from .names import unknown_names
from .parsers import KEYS, did_you_mean, read_filters_by_table, read_strings
from .reader import Problem, read
from .stream import StreamConfig


def get_config(stream: str) -> StreamConfig:
    """
    Return the configuration of a stream.

    Args:
        stream: The stream's key in ``WALEX``.

    Raises:
        ImproperlyConfigured: If the stream does not exist or its settings are invalid.
    """
    try:
        return get_configs()[stream]
    except KeyError:
        raise ImproperlyConfigured(
            f'There is no stream "{stream}" in WALEX.'
            f" {did_you_mean(stream, get_configs())}"
        ) from None


def get_configs() -> dict[str, StreamConfig]:
    """
    Return the configurations of all streams by name.

    Raises:
        ImproperlyConfigured: If no stream is defined or the settings are invalid.
    """
    # Take the lock only to fill the cache: modules that are imported while the lock is
    # held may call this function, even from another thread.
    if not _cache:
        with _lock:
            _cache.update(_read_or_raise(getattr(settings, "WALEX", None)))
    return dict(_cache)


def add_config(stream: str, key: str, values: Any) -> None:
    """
    Add entries to a list setting of a stream, or to its ``FILTERS``.

    The listener in this process applies the change from the next transaction on. This
    function can be called from any thread.

    Args:
        stream: The stream's key in ``WALEX``.
        key: ``"SUBSCRIPTIONS"``, ``"FILTERS"``, ``"MODULES"`` or ``"MESSAGES"``.
        values: An entry or a list of entries; for ``FILTERS``, a dict.

    Raises:
        ImproperlyConfigured: If the stream does not exist, the setting is not one of
            these, or the result is invalid.

    Source: WalEx, ``WalEx.Config.add_config/3``.
    """

    def add(current: Any) -> Any:
        if key == "FILTERS":
            return {**current, **_parse(key, read_filters_by_table, values)}
        new = _parse(key, read_strings, values)
        return list(dict.fromkeys([*_as_list(current), *new]))

    _change(stream, key, add, keys=_LISTS)


def remove_config(stream: str, key: str, value: Any) -> None:
    """
    Remove entries from a list setting of a stream, or from its ``FILTERS``.

    Args:
        stream: The stream's key in ``WALEX``.
        key: A key that `add_config` accepts.
        value: An entry or a list of entries; for ``FILTERS``, the table.

    Raises:
        ImproperlyConfigured: If `add_config` would raise it, or the setting does not
            contain the entry.

    Source: WalEx, ``WalEx.Config.remove_config/3``.
    """

    def remove(current: Any) -> Any:
        removed, entries = _parse(key, read_strings, value), _as_list(current)
        for entry in removed:
            if entry not in entries:
                raise ImproperlyConfigured(
                    f"{key} of the stream {stream!r} does not contain {entry!r}."
                    f" {did_you_mean(entry, entries)}"
                )
        if key == "FILTERS":
            return {
                table: options
                for table, options in current.items()
                if table not in removed
            }
        return [entry for entry in entries if entry not in removed]

    _change(stream, key, remove, keys=_LISTS)


def replace_config(stream: str, key: str, value: Any) -> None:
    """
    Replace the value of a stream's setting.

    Args:
        stream: The stream's key in ``WALEX``.
        key: A key that can be changed at runtime: those that `add_config` accepts,
            ``MAX_BATCH``, ``ON_ERROR``, ``MAX_RETRIES``, ``RETRY_BACKOFF``,
            ``BREAKER_THRESHOLD``, ``PAUSED``, and ``URL`` and ``STATUS_INTERVAL``,
            which take effect with the next connection.
        value: The new value, as in ``WALEX``.

    Raises:
        ImproperlyConfigured: If the stream does not exist, the setting can't be changed
            at runtime, or the value is invalid.

    Source: WalEx, ``WalEx.Config.replace_config/3``.
    """
    _change(stream, key, lambda _: value, keys=RUNTIME)


def override(stream: str, values: Mapping[str, Any]) -> None:
    """
    Override settings of a stream, in place of all earlier overrides.

    If the same values are already in force as overrides, the call has no effect, and
    later changes by `add_config`, `remove_config` and `replace_config` are preserved.

    Args:
        stream: The stream's key in ``WALEX``.
        values: The values by key.

    Raises:
        ImproperlyConfigured: If `replace_config` would raise it.
    """
    for key in values:
        if key not in RUNTIME:
            raise ImproperlyConfigured(_not_at_runtime(key))
    with _lock:
        previous = _overrides.get(stream, {})
        if previous == dict(values):
            return
        changed = _changed.get(stream, {})
        others = {key: value for key, value in changed.items() if key not in previous}
        _apply(stream, {**others, **values})
        _overrides[stream] = dict(values)


def written(stream: str) -> dict[str, Any]:
    """Return a stream's settings as written in ``WALEX``, with the runtime changes."""
    walex = getattr(settings, "WALEX", None)
    return {**_DEFAULTS, **(walex or {}).get(stream, {}), **_changed.get(stream, {})}


def attribute(key: str) -> str:
    """Return the attribute of `StreamConfig` that a settings key sets."""
    return KEYS[key][0]


def follow(config: StreamConfig) -> StreamConfig:
    """Return a stream's configuration with the runtime changes applied."""
    changed = _changed.get(config.name)
    if not changed:
        return config
    current = get_config(config.name)
    attributes = map(attribute, changed)
    return replace(config, **{name: getattr(current, name) for name in attributes})


def load_modules_with(load: Callable[[Iterable[str]], object]) -> None:
    """
    Set the function that imports the modules named by a change of ``MODULES``.

    Args:
        load: A callable that takes dotted names. It raises if one can't be imported.
    """
    global _load_modules  # noqa: PLW0603
    _load_modules = load


def _change(
    stream: str, key: str, change: Callable[[Any], Any], *, keys: Collection[str]
) -> None:
    get_config(stream)
    if key not in keys:
        raise ImproperlyConfigured(_why_not(key, keys))
    with _lock:
        value = change(written(stream).get(key))
        _apply(stream, {**_changed.get(stream, {}), key: value})


def _why_not(key: str, keys: Collection[str]) -> str:
    """Return why a key that is not one of ``keys`` is refused."""
    if key in RUNTIME:
        return f"{key} is not a list. Replace its value instead."
    if key in KEYS:
        return (
            f"{_not_at_runtime(key)} To change {key}, edit settings.WALEX and restart"
            " the listener."
        )
    return f"Unknown setting {key!r}. {did_you_mean(key, keys)}"


def _not_at_runtime(key: str) -> str:
    return (
        f"{key} can't be changed at runtime. These settings can: {', '.join(RUNTIME)}."
    )


def _parse(key: str, parse: Callable[[object], Any], value: object) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{key} {error}, not {value!r}.") from None


def _as_list(current: Any) -> list[str]:
    return [current] if isinstance(current, str) else list(current)


def _apply(stream: str, changed: Mapping[str, Any]) -> None:
    """Store a stream's runtime changes if the resulting settings are valid."""
    global generation  # noqa: PLW0603
    get_config(stream)
    all_changed = {**_changed, stream: dict(changed)}
    walex = dict(settings.WALEX)
    for name, options in all_changed.items():
        walex[name] = {**walex[name], **options}
    configs = _read_or_raise(walex)
    _check_names(configs[stream], load="MODULES" in changed)
    _changed[stream] = all_changed[stream]
    _cache.update(configs)
    generation += 1


def _check_names(config: StreamConfig, *, load: bool) -> None:
    """Raise if a stream's settings name anything that does not exist."""
    _raise_any(unknown_names(config))
    if not load:
        return
    try:
        _load_modules(config.modules)
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise ImproperlyConfigured(
            f"WALEX[{config.name!r}]['MODULES'] cannot be imported: {error!r}."
        ) from error


def _read_or_raise(walex: object) -> dict[str, StreamConfig]:
    configs, problems = read(walex)
    _raise_any(problems)
    return configs


def _raise_any(problems: Collection[Problem]) -> None:
    if problems:
        raise ImproperlyConfigured(
            " ".join(f"{problem.message} {problem.hint}" for problem in problems)
        )


def _import_all(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)


_load_modules: Callable[[Iterable[str]], object] = _import_all

generation = 0
"""A number that increases whenever a stream's settings change at runtime."""

_lock = RLock()
_cache: dict[str, StreamConfig] = {}
_changed: dict[str, dict[str, Any]] = {}
_overrides: dict[str, dict[str, Any]] = {}  # the part of _changed set by override()


def _reset(*, setting: str, **kwargs: object) -> None:
    if setting in {"WALEX", "DATABASES"}:
        _cache.clear()
        _changed.clear()
        _overrides.clear()


setting_changed.connect(_reset, dispatch_uid="walex_django.conf")

_LISTS = ("SUBSCRIPTIONS", "FILTERS", "MODULES", "MESSAGES")
RUNTIME = (
    *_LISTS,
    *("MAX_BATCH", "ON_ERROR", "MAX_RETRIES", "RETRY_BACKOFF", "BREAKER_THRESHOLD"),
    *("URL", "STATUS_INTERVAL", "PAUSED"),
)
"""Keys that can be changed at runtime."""

_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_LISTS, ()),
    "SUBSCRIPTIONS": (ALL_TABLES,),
    "FILTERS": {},
}
