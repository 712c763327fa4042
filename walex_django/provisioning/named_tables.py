"""The tables in a database that entries of the settings name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import router

from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import ModelTables
from walex_django.replication.connection import Connection
from walex_django.replication.publications import TableName
from walex_django.subscriptions import OWN_APP, Subscriptions

LISTED: Final = 10
"""Maximum number of tables that a message names."""


def listed(tables: Iterable[object]) -> str:
    """Return the sorted names of tables as text, with at most `LISTED` of them."""
    names = sorted(map(str, tables))
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more"


def subscribed_tables(config: StreamConfig, connection: Connection) -> list[TableName]:
    """
    Return the tables that a stream's ``SUBSCRIPTIONS`` name, sorted.

    `ALL_TABLES` stands for the tables of all models that migrate to its database.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.

    Raises:
        ImproperlyConfigured: If a table does not exist.
    """
    return named_tables("SUBSCRIPTIONS", config.subscriptions, config, connection)


def named_tables(
    key: str, entries: Iterable[str], config: StreamConfig, connection: Connection
) -> list[TableName]:
    """
    Return the tables that entries of a stream's settings name, sorted.

    Args:
        key: The setting's key, for error messages.
        entries: The entries, as `Subscriptions` takes them.
        config: The stream's configuration.
        connection: A connection to its database.

    Raises:
        ImproperlyConfigured: If a table does not exist.
    """
    subscriptions = Subscriptions(entries)
    alias = config.database
    model_tables = ModelTables(alias)
    models = dict(model_tables.items())
    tables = {
        table
        for table, model in models.items()
        if model._meta.app_label != OWN_APP
        and subscriptions.covers_model(model)
        and (model in subscriptions.models or router.allow_migrate_model(alias, model))
    }
    absent = subscriptions.models - set(models.values())
    for model in absent:
        if kind := model_tables.kind(model):
            raise ImproperlyConfigured(
                f"{model._meta.label} is {kind}: its changes are not in the WAL."
                f" Remove it from {key}."
            )
    if absent:
        raise ImproperlyConfigured(
            f"The database {alias!r} has no table yet for"
            f" {listed(model._meta.label for model in absent)}."
            f" Run: python manage.py migrate --database {alias}"
        )
    return sorted(tables | _existing_tables(connection, subscriptions, key))


_TABLES = """
SELECT namespace.nspname, class.relname
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p') AND class.relpersistence = 'p'
AND (
    namespace.nspname = ANY(%s) AND NOT class.relispartition
    OR (namespace.nspname, class.relname) IN (
        SELECT * FROM unnest(%s::text[], %s::text[]))
)
"""


def _existing_tables(
    connection: Connection, subscriptions: Subscriptions, key: str
) -> set[TableName]:
    named = subscriptions.tables
    rows = connection.execute(
        _TABLES,
        [
            list(subscriptions.schemas),
            [table.schema for table in named],
            [table.name for table in named],
        ],
    )
    found = {TableName(*row) for row in rows}
    for table in sorted(named - found):
        raise _unknown(key, str(table), table.schema)
    for schema in sorted(subscriptions.schemas - {table.schema for table in found}):
        raise _unknown(key, f"{schema}.*", schema)
    return found


def _unknown(key: str, entry: str, owner: str) -> ImproperlyConfigured:
    labels = [app.label for app in apps.get_app_configs()]
    close = difflib.get_close_matches(owner, labels, n=1)
    meant = f" Did you mean the app {close[0]!r}?" if close else ""
    return ImproperlyConfigured(
        f"{key} contains {entry!r}, but neither an app {owner!r} nor such a table"
        f" exists.{meant} If a migration creates it, run: python manage.py migrate"
    )
