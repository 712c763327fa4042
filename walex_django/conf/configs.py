"""The streams, as ``settings.WALEX`` describes them and as they were changed since."""

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
from .reader import (
    KEYS,
    Problem,
    did_you_mean,
    read,
    read_filters_by_table,
    read_strings,
)
from .stream import StreamConfig


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
            f" {did_you_mean(stream, get_configs())}"
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
            return {**now, **_given(key, read_filters_by_table, values)}
        return list(dict.fromkeys([*_listed(now), *_given(key, read_strings, values)]))

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
        gone, there = _given(key, read_strings, value), _listed(now)
        for each in gone:
            if each not in there:
                raise ImproperlyConfigured(
                    f"{key} of the stream {stream!r} has no {each!r}."
                    f" {did_you_mean(each, there)}"
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
            ``MAX_BATCH``, ``ON_ERROR``, ``MAX_RETRIES``, ``RETRY_BACKOFF``, ``PAUSED``;
            ``URL`` and ``STATUS_INTERVAL``, which count from the next connection on.
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
    return KEYS[key][0]


def follow(config: StreamConfig) -> StreamConfig:
    """Return a stream's configuration with what was changed since."""
    changed = _changed.get(config.name)
    if not changed:
        return config
    now = get_config(config.name)
    attributes = map(attribute, changed)
    return replace(config, **{name: getattr(now, name) for name in attributes})


def load_modules_with(load: Callable[[Iterable[str]], object]) -> None:
    """
    Set what imports the modules that a change of ``MODULES`` names.

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
        raise ImproperlyConfigured(
            f"{key!r} is no setting that can be changed so. {_other_way(key, keys)}"
        )
    with _lock:
        value = change(written(stream).get(key))
        _set(stream, {**_changed.get(stream, {}), key: value})


def _other_way(key: str, keys: Collection[str]) -> str:
    if key in RUNTIME:
        return "Replace it: it is no list."
    if key in KEYS:
        return "Change settings.WALEX, and start the listener again."
    return did_you_mean(key, keys)


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
    _raise(unknown_names(config))
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


def _require(walex: object) -> dict[str, StreamConfig]:
    configs, problems = read(walex)
    _raise(problems)
    return configs


def _raise(problems: Collection[Problem]) -> None:
    if problems:
        raise ImproperlyConfigured(
            " ".join(f"{problem.message} {problem.hint}" for problem in problems)
        )


def _import_all(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)


_load_modules: Callable[[Iterable[str]], object] = _import_all

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

_LISTS = ("SUBSCRIPTIONS", "FILTERS", "MODULES", "MESSAGES")
RUNTIME = (
    *_LISTS,
    *("MAX_BATCH", "ON_ERROR", "MAX_RETRIES", "RETRY_BACKOFF"),
    *("URL", "STATUS_INTERVAL", "PAUSED"),
)
"""Keys that may change while the stream runs."""

_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_LISTS, ()),
    "SUBSCRIPTIONS": (ALL_TABLES,),
    "FILTERS": {},
}
