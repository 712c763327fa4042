"""The tables that entries of the settings name, in a database."""

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
"""How many tables a message names."""


def listed(tables: Iterable[object]) -> str:
    """Return the names of tables, sorted; of many, the first ones and how many more."""
    names = sorted(map(str, tables))
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more"


def subscribed_tables(config: StreamConfig, connection: Connection) -> list[TableName]:
    """
    Return the tables that a stream's ``SUBSCRIPTIONS`` name, sorted.

    `ALL_TABLES` are those of the models that migrate to the stream's database.

    Raises:
        ImproperlyConfigured: one of them does not exist.
    """
    return named_tables("SUBSCRIPTIONS", config.subscriptions, config, connection)


def named_tables(
    key: str, entries: Iterable[str], config: StreamConfig, connection: Connection
) -> list[TableName]:
    """
    Return the tables that entries of a stream's settings name, sorted.

    Args:
        key: of the setting, for errors.
        entries: as `Subscriptions` has them.
        config: of the stream.
        connection: to its database.

    Raises:
        ImproperlyConfigured: one of them does not exist.
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
                f"{model._meta.label} is {kind}: PostgreSQL does not log its changes."
                f" Take it out of {key}."
            )
    if absent:
        raise ImproperlyConfigured(
            f"The database {alias!r} has no table yet of"
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
        f"{key} has {entry!r}, and there is neither an app {owner!r} nor such a"
        f" table.{meant} If a migration makes it, run: python manage.py migrate"
    )
