"""Checks of the models, fields, modules and dotted paths that settings name."""

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
    """Return a problem for each nonexistent name in a stream's settings."""
    return _name_problems(config) + _path_problems(config)


def unknown_fields(config: StreamConfig) -> list[Problem]:
    """
    Return a problem for each field in a stream's filters that no model has.

    No database is queried.

    Args:
        config: The stream's configuration.
    """
    return [
        Problem(
            "E008",
            f"WALEX[{config.name!r}]['FILTERS'][{entry!r}]: {error}",
            "Use fields of the model, or columns of its table.",
        )
        for entry, filter_ in config.filters.items()
        for error in errors_by_name(entry, filter_).values()
    ]


def _name_problems(config: StreamConfig) -> list[Problem]:
    problems = []
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
                hint = "Correct the name, or write 'app.*' for all models of the app."
                problems.append(Problem("E006", f"{path}: {error}", hint))
    return problems + unknown_fields(config)


def _path_problems(config: StreamConfig) -> list[Problem]:
    hint = "Correct the dotted path."
    path = f"WALEX[{config.name!r}]"
    problems = [
        Problem("E009", f"{path}['MODULES']: No module named {module!r}.", hint)
        for module in config.modules
        if not module_exists(module)
    ]
    resolvers: list[tuple[str, Callable[[], object]]] = [
        (f"{path}['FILTERS'][{entry!r}]", filter_.condition)
        for entry, filter_ in config.filters.items()
    ]
    resolvers.append((path, config.middleware))
    for where, resolve in resolvers:
        try:
            resolve()
        except ImproperlyConfigured as error:
            problems.append(Problem("E009", f"{where}: {error}.", hint))
    return problems


def module_exists(module: str) -> bool:
    """Return whether a module of that dotted name exists."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def one_by_one(filter_: Filter) -> dict[str, Filter]:
    """Split a filter into one filter for each field that it names."""
    names = (*filter_.unwatched_fields, *filter_.changed, *filter_.sensitive_fields)
    return {name: Filter(changed=(name,)) for name in names} | {
        name: Filter(unwatched_records={name: value})
        for name, value in filter_.unwatched_records.items()
    }


def errors_by_name(entry: str, filter_: Filter) -> dict[str, str]:
    """
    Return the field names of a filter that are invalid for all of its models.

    Args:
        entry: The key in ``FILTERS`` that selects the models.
        filter_: The filter.

    Returns:
        An error message by field name.
    """
    try:
        subscriptions = Subscriptions([entry])
    except ImproperlyConfigured:
        return {}  # reported by _name_problems
    models = [model for model in concrete_models() if _covers(subscriptions, model)]
    found = {}
    for name, single in one_by_one(filter_).items():
        # An unmanaged table may have columns that its model does not have.
        errors = [
            error
            for model in models
            if not (error := _error(single, model))
            or model._meta.managed
            or subscriptions.covers_model(model)
        ]
        # If the entry names several models, one of them with the field is enough.
        if errors and all(errors):
            found[name] = errors[0]
    return found


def _error(filter_: Filter, model: type[Model]) -> str:
    try:
        filter_.require_fields(model)
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def _covers(subscriptions: Subscriptions, model: type[Model]) -> bool:
    """Return whether subscriptions name a model, or its table."""
    if subscriptions.covers_model(model):
        return True
    schema, _, name = bare(model._meta.db_table).rpartition('"."')
    # In another schema, a table of this name may not be the model's. The check of the
    # database finds unknown columns of such tables.
    schema = schema or _DEFAULT_SCHEMA
    return schema in subscriptions.schemas or (
        TableName(schema, name) in subscriptions.tables
    )
