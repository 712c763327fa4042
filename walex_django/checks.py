"""System checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from . import handlers, settings_reader
from .catalogue import concrete_models
from .filters import Filter, Subscriptions
from .middleware import resolve
from .settings_reader import Problem
from .signals import ALL
from .stream_config import StreamConfig


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check the shape of ``WALEX``; asks no server."""
    configs, problems = settings_reader.read(getattr(settings, "WALEX", None))
    found = list(problems)
    for config in configs.values():
        found += unknown_names(config)
    if not problems:
        found += _stream_problems(configs)
    return [
        (checks.Warning if problem.id.startswith("W") else checks.Error)(
            problem.message, hint=problem.hint or None, id=f"walex_django.{problem.id}"
        )
        for problem in found
    ]


def unknown_names(config: StreamConfig) -> list[Problem]:
    """Return what a stream's settings name and is not there; asks no server."""
    return _name_problems(config) + _path_problems(config)


def _stream_problems(configs: Mapping[str, StreamConfig]) -> list[Problem]:
    """Return who hears of a stream that there is not, and so of nothing."""
    waiting = [
        (f"{handler.where}: the handler", handler.stream)
        for handler in [*handlers.registry.values()]
        if handler.stream is not None
    ]
    waiting += [
        (f"A receiver of {signal.name}", stream)
        for signal in ALL
        for stream in signal.streams()
    ]
    hint = f"There are: {', '.join(configs)}."
    return [
        Problem("E010", f"{who} names the stream {stream!r}, which WALEX lacks.", hint)
        for who, stream in waiting
        if stream not in configs
    ]


def _name_problems(config: StreamConfig) -> list[Problem]:
    """Return what names no model or field."""
    found = []
    for key, entries in (
        ("SUBSCRIPTIONS", config.subscriptions),
        ("FILTERS", config.filters),
    ):
        path = f"WALEX[{config.name!r}][{key!r}]"
        for entry in entries:
            try:
                Subscriptions([entry])
            except ImproperlyConfigured as error:
                hint = "Mend the name, or write 'app.*' for all models of the app."
                found.append(Problem("E006", f"{path}: {error}", hint))
    for entry, chosen in config.filters.items():
        path = f"WALEX[{config.name!r}]['FILTERS'][{entry!r}]"
        errors = _field_errors(entry, chosen)
        # Of all models of an app, one may do.
        if errors and all(errors):
            hint = "Filters name fields of the model."
            found.append(Problem("E008", f"{path}: {errors[0]}", hint))
    return found


def _field_errors(entry: str, chosen: Filter) -> list[str]:
    """Return what is wrong with a filter for each model that it is for; or nothing."""
    try:
        subscriptions = Subscriptions([entry])
    except ImproperlyConfigured:
        return []  # told already
    errors = []
    for model in filter(subscriptions.covers_model, concrete_models()):
        try:
            chosen.require_fields(model)
        except ImproperlyConfigured as error:
            errors.append(str(error))
        else:
            errors.append("")
    return errors


def _path_problems(config: StreamConfig) -> list[Problem]:
    """Return what cannot be imported."""
    hint = "Mend the dotted path."
    path = f"WALEX[{config.name!r}]"
    found = [
        Problem("E009", f"{path}['MODULES']: there is no module {module!r}.", hint)
        for module in config.modules
        if not handlers.exists(module)
    ]
    resolvers: list[tuple[str, Callable[[], object]]] = [
        (f"{path}['FILTERS'][{entry!r}]", chosen.condition)
        for entry, chosen in config.filters.items()
    ]
    if config.message_middleware:
        resolvers.append((path, partial(resolve, config.message_middleware)))
    for where, look_up in resolvers:
        try:
            look_up()
        except ImproperlyConfigured as error:
            found.append(Problem("E009", f"{where}: {error}.", hint))
    return found
