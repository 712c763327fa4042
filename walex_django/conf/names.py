"""Names in the settings that nothing has: models, fields, modules, dotted paths."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from walex_django.events.catalogue import bare, concrete_models
from walex_django.filters import Filter
from walex_django.replication.publications import TableName
from walex_django.subscriptions import Subscriptions

from .reader import Problem
from .stream import StreamConfig

_DEFAULT_SCHEMA = "public"


def unknown_names(config: StreamConfig) -> list[Problem]:
    """Return what a stream's settings name and is not there; asks no server."""
    return _name_problems(config) + _path_problems(config)


def unknown_fields(config: StreamConfig) -> list[Problem]:
    """
    Return what the filters of a stream name and no model has; asks no server.

    Args:
        config: of the stream.
    """
    return [
        Problem(
            "E008",
            f"WALEX[{config.name!r}]['FILTERS'][{entry!r}]: {error}",
            "Filters name fields of the model, or columns of its table.",
        )
        for entry, chosen in config.filters.items()
        for error in errors_by_name(entry, chosen).values()
    ]


def _name_problems(config: StreamConfig) -> list[Problem]:
    """Return what names no model or field."""
    found = []
    for key, entries in (
        ("SUBSCRIPTIONS", config.subscriptions),
        ("FILTERS", config.filters),
        ("REPLICA_IDENTITY", config.replica_identity),
    ):
        path = f"WALEX[{config.name!r}][{key!r}]"
        for entry in entries:
            try:
                Subscriptions([entry])
            except ImproperlyConfigured as error:
                hint = "Mend the name, or write 'app.*' for all models of the app."
                found.append(Problem("E006", f"{path}: {error}", hint))
    return found + unknown_fields(config)


def _path_problems(config: StreamConfig) -> list[Problem]:
    """Return what cannot be imported."""
    hint = "Mend the dotted path."
    path = f"WALEX[{config.name!r}]"
    found = [
        Problem("E009", f"{path}['MODULES']: there is no module {module!r}.", hint)
        for module in config.modules
        if not module_exists(module)
    ]
    resolvers: list[tuple[str, Callable[[], object]]] = [
        (f"{path}['FILTERS'][{entry!r}]", chosen.condition)
        for entry, chosen in config.filters.items()
    ]
    resolvers.append((path, config.middleware))
    for where, look_up in resolvers:
        try:
            look_up()
        except ImproperlyConfigured as error:
            found.append(Problem("E009", f"{where}: {error}.", hint))
    return found


def module_exists(module: str) -> bool:
    """Return whether there is a module of that dotted name."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def one_by_one(chosen: Filter) -> dict[str, Filter]:
    """Return filters of one name each."""
    names = (*chosen.unwatched_fields, *chosen.changed, *chosen.sensitive_fields)
    return {name: Filter(changed=(name,)) for name in names} | {
        name: Filter(unwatched_records={name: value})
        for name, value in chosen.unwatched_records.items()
    }


def errors_by_name(entry: str, chosen: Filter) -> dict[str, str]:
    """Return what is wrong with names for all models that a filter is for."""
    try:
        subscriptions = Subscriptions([entry])
    except ImproperlyConfigured:
        return {}  # told already
    models = [model for model in concrete_models() if _covers(subscriptions, model)]
    found = {}
    for name, of_name in one_by_one(chosen).items():
        # A table that others manage may have columns that its model does not.
        errors = [
            error
            for model in models
            if not (error := _error(of_name, model))
            or model._meta.managed
            or subscriptions.covers_model(model)
        ]
        # Of all models of an app, one may do.
        if errors and all(errors):
            found[name] = errors[0]
    return found


def _error(chosen: Filter, model: type[Model]) -> str:
    try:
        chosen.require_fields(model)
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def _covers(subscriptions: Subscriptions, model: type[Model]) -> bool:
    """Return whether a model, or its table by name, is among them."""
    if subscriptions.covers_model(model):
        return True
    schema, _, name = bare(model._meta.db_table).rpartition('"."')
    # Elsewhere a table of the name may be another one: the server is asked of that.
    schema = schema or _DEFAULT_SCHEMA
    return schema in subscriptions.schemas or (
        TableName(schema, name) in subscriptions.tables
    )
