"""What a stream requires of its database before it can start."""

from __future__ import annotations

from collections.abc import Collection

from django.db import connections

from walex_django.conf.stream import StreamConfig
from walex_django.replication import publications, server
from walex_django.replication.connection import Connection
from walex_django.replication.errors import NotPrepared, PublicationMissing
from walex_django.replication.publications import TableName
from walex_django.subscriptions import ALL_TABLES

from .named_tables import listed, subscribed_tables


def require_one_database(config: StreamConfig, connection: Connection) -> None:
    """
    Raise if `URL` leads to another database than the models are in.

    Raises:
        NotPrepared: it does.
    """
    if config.url is None:
        return
    with connections[config.database].cursor() as cursor:
        cursor.execute(server.IDENTITY)
        if cursor.fetchone() != server.identity(connection):
            raise NotPrepared(
                f"URL leads to another database than DATABASE, which is"
                f" {config.database!r}.",
                hint="Let both name the same: events are matched to its models.",
            )


def require_published(config: StreamConfig, connection: Connection) -> None:
    """
    Raise unless all that a stream's ``SUBSCRIPTIONS`` name is published.

    With `ALL_TABLES` the stream takes what the publication has.

    Raises:
        PublicationMissing: there is none, or it lacks a table.
        ImproperlyConfigured: a table does not exist.
    """
    publications.require(connection, config.publications)
    if ALL_TABLES not in config.subscriptions:
        wanted = subscribed_tables(config, connection)
        require_covered(config, connection, wanted)


def require_covered(
    config: StreamConfig, connection: Connection, wanted: Collection[TableName]
) -> None:
    """
    Raise unless a stream's publications have all of these tables.

    Raises:
        PublicationMissing: they lack one.
    """
    published = publications.covered(connection, config.publications)
    lacking = [table for table in wanted if table not in published]
    if lacking:
        names = ", ".join(f'"{name}"' for name in config.publications)
        raise PublicationMissing(
            f"SUBSCRIPTIONS has what the publication {names} lacks: {listed(lacking)}.",
            hint="Run: python manage.py walex_setup",
        )
