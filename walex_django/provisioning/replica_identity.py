"""What tables tell of their old rows, and what the settings want of that."""

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
    A table that tells something else of its old rows than the settings want.

    Attributes:
        part: the table, perhaps a partition.
        now: what it tells.
        identity: what it is to tell; of an index the name that it has there.
    """

    part: TableName
    now: str
    identity: str


def differences(config: StreamConfig, connection: Connection) -> list[Difference]:
    """
    Return where tables tell something else than ``REPLICA_IDENTITY`` wants, sorted.

    Args:
        config: of the stream.
        connection: to its database.

    Raises:
        ImproperlyConfigured: a table or an index does not exist.
    """
    wanted = _wanted(config, connection)
    if not wanted:
        return []
    found = identities.find(connection, wanted)
    indexes: dict[TableName, dict[str, str]] = {}
    if not set(wanted.values()) <= set(IDENTITIES):
        indexes = identities.indexes(connection, wanted)
    # A partition may have an entry of its own, beside its table's.
    chosen: dict[TableName, tuple[Identity, str]] = {}
    for each in found:
        if each.part == each.table or each.part not in wanted:
            chosen[each.part] = each, wanted[each.table]
    different = []
    for part, (now, asked) in sorted(chosen.items(), key=itemgetter(0)):
        identity = (
            asked if asked in IDENTITIES else _index(part, asked, indexes.get(part, {}))
        )
        if now.kind != identity:
            different.append(Difference(part, now.kind, identity))
    return different


def _wanted(config: StreamConfig, connection: Connection) -> dict[TableName, str]:
    """Return what is wanted of each table."""
    entries = config.replica_identity
    if not entries:
        return {}
    tables = named_tables(KEY, entries, config, connection)
    models = dict(ModelTables(config.database).items())
    wishes = Wishes(entries)
    wanted = {table: wishes.of(models.get(table), [table]) for table in tables}
    return {table: wish for table, wish in wanted.items() if wish is not None}


class Wishes:
    """
    What entries want of tables; one that names a table goes before the rest.

    Args:
        entries: as ``REPLICA_IDENTITY`` has them.

    Raises:
        ImproperlyConfigured: an app has no such model.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = [
            (Subscriptions([entry]), entries[entry])
            for entry in sorted(entries, key=_width, reverse=True)
        ]

    def of(self, model: type[Model] | None, names: Collection[TableName]) -> str | None:
        """Return what is wanted of a table, by its model and names, or `None`."""
        wish = None
        for named, identity in self._entries:
            if (model is not None and named.covers_model(model)) or any(
                name in named.tables or name.schema in named.schemas for name in names
            ):
                wish = identity
        return wish


def _width(entry: str) -> int:
    return 2 if entry == ALL_TABLES else int(entry.endswith(".*"))


def _index(part: TableName, name: str, there: dict[str, str]) -> str:
    try:
        return there[name]
    except KeyError:
        known = ", ".join(sorted(set(there.values()))) or "none"
        close = difflib.get_close_matches(name.upper(), IDENTITIES, n=1, cutoff=0.8)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ImproperlyConfigured(
            f"{KEY} names the index {name!r}, and it is none of {part} that can be a"
            " replica identity: unique, not deferrable, not partial, on columns that"
            f" are NOT NULL. Such ones are: {known}.{meant}"
        ) from None
