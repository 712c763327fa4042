"""Requirements that a stream's database must meet before the stream can start."""

from __future__ import annotations

from collections.abc import Collection

from django.db import connections

from walex_django.conf.stream import StreamConfig
from walex_django.replication import coverage, publications, server
from walex_django.replication.connection import Connection
from walex_django.replication.errors import NotPrepared, PublicationMissing
from walex_django.replication.publications import TableName
from walex_django.subscriptions import ALL_TABLES

from .named_tables import listed, subscribed_tables


def require_one_database(config: StreamConfig, connection: Connection) -> None:
    """
    Raise if ``URL`` and ``DATABASE`` lead to different databases.

    Args:
        config: The stream's configuration.
        connection: A connection to the database at ``URL``.

    Raises:
        NotPrepared: If they do.
    """
    if config.url is None:
        return
    with connections[config.database].cursor() as cursor:
        cursor.execute(server.IDENTITY)
        if cursor.fetchone() != server.identity(connection):
            raise NotPrepared(
                f"URL leads to a different database than DATABASE, which is"
                f" {config.database!r}.",
                hint="Make both name the same database: events are matched to the"
                " models in it.",
            )


def require_published(config: StreamConfig, connection: Connection) -> None:
    """
    Raise unless all tables that a stream's ``SUBSCRIPTIONS`` name are published.

    With `ALL_TABLES`, the stream delivers all tables of its publications.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.

    Raises:
        PublicationMissing: If a publication does not exist, or lacks a table.
        ImproperlyConfigured: If a table does not exist.
    """
    publications.require(connection, config.publications)
    if ALL_TABLES not in config.subscriptions:
        wanted = subscribed_tables(config, connection)
        require_covered(config, connection, wanted)


def require_covered(
    config: StreamConfig, connection: Connection, wanted: Collection[TableName]
) -> None:
    """
    Raise unless a stream's publications include all given tables.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.
        wanted: The tables.

    Raises:
        PublicationMissing: If a table is missing.
    """
    found = coverage.find(connection, config.publications, wanted)
    missing = [table for table in wanted if table in found and not found[table].covered]
    if missing:
        names = ", ".join(f'"{name}"' for name in config.publications)
        raise PublicationMissing(
            "SUBSCRIPTIONS names tables that are missing from the publication"
            f" {names}: {listed(missing)}.",
            hint="Run: python manage.py walex_setup",
        )
