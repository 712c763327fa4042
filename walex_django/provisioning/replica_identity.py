"""Replica identities of tables, compared with ``REPLICA_IDENTITY``."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import ModelTables
from walex_django.replication import identities
from walex_django.replication.connection import Connection
from walex_django.replication.identities import IDENTITIES, Identity
from walex_django.replication.publications import TableName
from walex_django.subscriptions import ALL_TABLES, Subscriptions

from .named_tables import named_tables

KEY = "REPLICA_IDENTITY"


class Difference(NamedTuple):
    """
    A table whose replica identity differs from the settings.

    Attributes:
        part: The table or partition.
        now: Its current replica identity.
        identity: The replica identity from the settings. For an index, the name of the
            index on this table or partition.
    """

    part: TableName
    now: str
    identity: str


def differences(config: StreamConfig, connection: Connection) -> list[Difference]:
    """
    Return the tables whose replica identity differs from the settings, sorted.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.

    Raises:
        ImproperlyConfigured: If a table or an index does not exist.
    """
    wanted = _wanted(config, connection)
    if not wanted:
        return []
    found = identities.find(connection, wanted)
    indexes: dict[TableName, dict[str, str]] = {}
    if not set(wanted.values()) <= set(IDENTITIES):
        indexes = identities.indexes(connection, wanted)
    # The entry of a partition takes precedence over that of the partitioned table.
    by_part: dict[TableName, tuple[Identity, str]] = {}
    for current in found:
        if current.part == current.table or current.part not in wanted:
            by_part[current.part] = current, wanted[current.table]
    result = []
    for part, (current, value) in sorted(by_part.items(), key=itemgetter(0)):
        identity = (
            value if value in IDENTITIES else _index(part, value, indexes.get(part, {}))
        )
        if current.kind != identity:
            result.append(Difference(part, current.kind, identity))
    return result


def _wanted(config: StreamConfig, connection: Connection) -> dict[TableName, str]:
    """Return the value of ``REPLICA_IDENTITY`` for each table that has one."""
    entries = config.replica_identity
    if not entries:
        return {}
    tables = named_tables(KEY, entries, config, connection)
    models = dict(ModelTables(config.database).items())
    wishes = Wishes(entries)
    wanted = {table: wishes.of(models.get(table), [table]) for table in tables}
    return {
        table: identity for table, identity in wanted.items() if identity is not None
    }


class Wishes:
    """
    The entries of ``REPLICA_IDENTITY``.

    An entry that names a single table takes precedence over other entries.

    Args:
        entries: The setting's value.

    Raises:
        ImproperlyConfigured: If an app has no such model.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = [
            (Subscriptions([entry]), entries[entry])
            for entry in sorted(entries, key=_width, reverse=True)
        ]

    def of(self, model: type[Model] | None, names: Collection[TableName]) -> str | None:
        """
        Return the replica identity that the settings want for a table.

        Args:
            model: The table's model, if it has one.
            names: The table's names.

        Returns:
            The value of the entry, or `None` if no entry names the table.
        """
        found = None
        for tables, identity in self._entries:
            if (model is not None and tables.covers_model(model)) or any(
                name in tables.tables or name.schema in tables.schemas for name in names
            ):
                found = identity
        return found


def _width(entry: str) -> int:
    return 2 if entry == ALL_TABLES else int(entry.endswith(".*"))


def _index(part: TableName, name: str, indexes: dict[str, str]) -> str:
    try:
        return indexes[name]
    except KeyError:
        suitable = ", ".join(sorted(set(indexes.values()))) or "none"
        close = difflib.get_close_matches(name.upper(), IDENTITIES, n=1, cutoff=0.8)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ImproperlyConfigured(
            f"{KEY} names the index {name!r}, but {part} has no such index that can be"
            " its replica identity: a unique index that is not deferrable and not"
            f" partial, on columns that are NOT NULL. Suitable indexes: {suitable}."
            f"{meant}"
        ) from None
