"""The relations of one connection, and the tables that the stream subscribes to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from walex_django import log
from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import ModelTables
from walex_django.events.column_types import ColumnTypes
from walex_django.events.event import Event
from walex_django.events.table import Table
from walex_django.filters import Filter, TableFilter
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.messages import Relation, RowMessage, Truncate, Type
from walex_django.replication.publications import TableName
from walex_django.subscriptions import Subscriptions

from .partition_keys import PartitionKeys, Place

logger = log.logger(__name__)


class SubscribedTable(NamedTuple):
    """
    A table whose changes are delivered.

    Attributes:
        table: The table, as its RELATION message described it.
        filters: The filters that its rows must pass.
    """

    table: Table
    filters: Sequence[TableFilter]

    def drops(self, message: RowMessage | Truncate) -> bool:
        """Return whether a filter other than ``where`` drops a row."""
        return any(table_filter.drops(message) for table_filter in self.filters)

    def accepts(self, event: Event) -> bool:
        """Return whether each ``where`` accepts an event."""
        return all(table_filter.holds(event) for table_filter in self.filters)


class TablesByOid(dict[int, SubscribedTable | None]):
    """Tables by OID; `None` for a table that the stream is not subscribed to."""

    def __missing__(self, oid: int) -> SubscribedTable | None:
        raise ProtocolError("row", 1, "unknown relation")


class NoTables(TablesByOid):
    """Drops every row, for a transaction that was delivered before."""

    def __missing__(self, oid: int) -> None:
        return None


class SubscribedTables:
    """
    Stores the relations that one connection has described, with their subscriptions.

    Args:
        models: The models of the stream's database.

    Attributes:
        by_oid: The tables by OID. `configure` updates this dict in place.
    """

    def __init__(self, models: ModelTables) -> None:
        self.by_oid = TablesByOid()
        self._models = models
        self._types = ColumnTypes(models.alias)
        self._relations: dict[int, Relation] = {}
        self._partition_keys = PartitionKeys()
        self._subscriptions = Subscriptions([])
        self._filters: list[tuple[Subscriptions, Filter]] = []

    def configure(self, config: StreamConfig) -> None:
        """Apply the subscriptions and filters of a configuration."""
        self._subscriptions = Subscriptions(config.subscriptions)
        self._filters = [
            (Subscriptions([entry]), entry_filter)
            for entry, entry_filter in config.filters.items()
        ]
        for oid, relation in self._relations.items():
            self.by_oid[oid] = self._subscribed(relation)

    def add(self, relation: Relation, place: Place) -> None:
        """
        Add a relation, or replace its earlier description.

        Args:
            relation: The message.
            place: See `PartitionKeys.add`.
        """
        self._relations[relation.oid] = relation
        self.by_oid[relation.oid] = self._subscribed(relation)
        root = self._partition_keys.add(relation, place)
        if root is not None:
            self._set_partition_keys(root)

    def truncate(self, place: Place) -> None:
        """
        Note that the relations described last are those of a TRUNCATE.

        Args:
            place: See `PartitionKeys.add`.
        """
        for root in self._partition_keys.discard(place):
            self._set_partition_keys(root)

    def _set_partition_keys(self, oid: int) -> None:
        if subscribed := self.by_oid[oid]:
            table = subscribed.table
            table.partition_keys = self._partition_keys_of(oid, table)

    def _partition_keys_of(
        self, oid: int, table: Table
    ) -> frozenset[frozenset[int] | None]:
        # A table never becomes partitioned, nor ceases to be. A middleware that drops
        # rows may make it look as if this one had partitions.
        if table.lineage and not table.lineage.may_be_partitioned:
            return frozenset()
        return self._partition_keys.indexes(oid, table.column_names)

    def add_type(self, message: Type) -> None:
        """Add the description of a type that is not built into PostgreSQL."""
        self._types.add(message)

    def _subscribed(self, relation: Relation) -> SubscribedTable | None:
        name = TableName(relation.schema, relation.name)
        lineage = self._models.lineage(name, relation.oid)
        if not self._subscriptions.cover(lineage):
            if not (lineage.model or lineage.exists):
                logger.warning(
                    "Table %s no longer exists and matches no model or subscription, so"
                    " its changes are not delivered. To receive them, subscribe to the"
                    " table by name.",
                    name,
                    extra={"table": str(name)},
                )
            return None
        if lineage.model:
            self._models.warn_of_missing_columns(
                lineage.model,
                relation.oid,
                [column.name for column in relation.columns],
            )
        table = Table(
            relation,
            model=lineage.model,
            lineage=lineage,
            alias=self._models.alias,
            types=self._types.resolve([c.type_oid for c in relation.columns]),
        )
        filters = [
            entry_filter
            for tables, entry_filter in self._filters
            if tables.cover(lineage)
        ]
        table.partition_keys = self._partition_keys_of(relation.oid, table)
        table.sensitive = frozenset(
            chain.from_iterable(f.sensitive_columns(table) for f in filters)
        )
        table_filters = [
            table_filter for f in filters if (table_filter := f.for_table(table))
        ]
        return SubscribedTable(table, table_filters)
