"""Published tables that no stream subscribes to."""

from __future__ import annotations

from collections.abc import Iterator

from walex_django.conf import stored
from walex_django.conf.configs import get_configs
from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import Lineage, ModelTables
from walex_django.replication import publications
from walex_django.replication.connection import Connection
from walex_django.replication.publications import TableName
from walex_django.subscriptions import Subscriptions


def find(config: StreamConfig, connection: Connection) -> dict[str, list[TableName]]:
    """
    Return the tables of a stream's publications that no stream subscribes to.

    All streams that share a publication are taken into account. Publications of all
    tables, or of all tables in a schema, are left out.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.

    Returns:
        The unwanted tables by publication, without publications that have none.
    """
    described = publications.described(connection, config.publications)
    names = [publication.name for publication in described if publication.lists_tables]
    if not names:
        return {}
    members = publications.members(connection, names)
    parts = {
        part
        for parts_by_table in members.values()
        for table_parts in parts_by_table.values()
        for part in table_parts
    }
    lineages = ModelTables(config.database).lineages(parts)
    found = {}
    for name, parts_by_table in members.items():
        all_subscriptions = list(_subscriptions(config, name))
        unwanted = [
            table
            for table, table_parts in parts_by_table.items()
            if not any(
                _covers(subscriptions, lineages, table_parts)
                for subscriptions in all_subscriptions
            )
        ]
        if unwanted:
            found[name] = unwanted
    return found


def _subscriptions(config: StreamConfig, publication: str) -> Iterator[Subscriptions]:
    """Yield the subscriptions of all streams that read a publication."""
    yield Subscriptions(config.subscriptions)
    for other in get_configs().values():
        if (
            other.name != config.name
            and publication in other.publications
            and other.may_share_database(config)
        ):
            yield Subscriptions(stored.refreshed(other).subscriptions)


def _covers(
    subscriptions: Subscriptions,
    lineages: dict[TableName, Lineage],
    parts: list[TableName],
) -> bool:
    return any(subscriptions.cover(lineages[part]) for part in parts)
