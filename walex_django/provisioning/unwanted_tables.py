"""Tables that are published and that no stream wants."""

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
    Return the tables of a stream's publications that no stream wants.

    All streams that share a publication are asked. Publications of all tables, or of
    those in a schema, have none.

    Args:
        config: of the stream.
        connection: to its database.

    Returns the tables by publication; publications without any are left out.
    """
    described = publications.described(connection, config.publications)
    names = [each.name for each in described if each.lists_tables]
    if not names:
        return {}
    members = publications.members(connection, names)
    parts = {part for of in members.values() for each in of.values() for part in each}
    lineages = ModelTables(config.database).lineages(parts)
    found = {}
    for name, tables in members.items():
        sharing = list(_sharing(config, name))
        surplus = [
            table
            for table, of_table in tables.items()
            if not any(_wants(each, lineages, of_table) for each in sharing)
        ]
        if surplus:
            found[name] = surplus
    return found


def _sharing(config: StreamConfig, publication: str) -> Iterator[Subscriptions]:
    """Yield what the streams want that read a publication."""
    yield Subscriptions(config.subscriptions)
    for other in get_configs().values():
        if (
            other.name != config.name
            and publication in other.publications
            and other.may_share_database(config)
        ):
            yield Subscriptions(stored.refreshed(other).subscriptions)


def _wants(
    subscriptions: Subscriptions,
    lineages: dict[TableName, Lineage],
    parts: list[TableName],
) -> bool:
    return any(subscriptions.cover(lineages[part]) for part in parts)
