"""Names in filters that nothing has: they leave nothing out, and mask nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from walex_django.catalogue import bare, concrete_models
from walex_django.filters import Filter, Subscriptions
from walex_django.named_tables import listed
from walex_django.replication.publications import TableName
from walex_django.settings_reader import Problem
from walex_django.stream_config import StreamConfig

from . import old_rows
from .old_rows import PublishedRows

_DEFAULT_SCHEMA = "public"


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
        for error in _errors(entry, chosen).values()
    ]


def unknown_columns(
    config: StreamConfig, published: Collection[PublishedRows]
) -> Iterator[Problem]:
    """
    Yield what filters name and none of the tables has that they are for.

    What `unknown_fields` tells is left out.

    Args:
        config: of the stream.
        published: the tables that it may deliver.
    """
    for where, entry, chosen, _, covers in old_rows.filters(config):
        tables = [table for table in published if covers(table.lineage)]
        # Without partitions, a partitioned table has no rows to tell of.
        if not tables or not all(table.identities for table in tables):
            continue
        known = _errors(entry, chosen) if entry is not None else {}
        for name in _by_name(chosen):
            if name not in known and all(
                table.column(name) not in table.columns for table in tables
            ):
                yield Problem(
                    "W049",
                    f"{where}: no column or field of"
                    f" {listed(table.name for table in tables)} is named {name!r}.",
                    _meant(name, tables),
                )


def _meant(name: str, tables: Collection[PublishedRows]) -> str:
    columns = sorted(frozenset().union(*(table.columns for table in tables)))
    if close := difflib.get_close_matches(name, columns, n=1):
        return f"Did you mean {close[0]!r}?"
    return "Name a column of the table, or a field of its model."


def _by_name(chosen: Filter) -> dict[str, Filter]:
    """Return filters of one name each."""
    names = (*chosen.unwatched_fields, *chosen.changed, *chosen.sensitive_fields)
    return {name: Filter(changed=(name,)) for name in names} | {
        name: Filter(unwatched_records={name: value})
        for name, value in chosen.unwatched_records.items()
    }


def _errors(entry: str, chosen: Filter) -> dict[str, str]:
    """Return what is wrong with names for all models that a filter is for."""
    try:
        subscriptions = Subscriptions([entry])
    except ImproperlyConfigured:
        return {}  # told already
    models = [model for model in concrete_models() if _covers(subscriptions, model)]
    found = {}
    for name, of_name in _by_name(chosen).items():
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
