"""The relations of one connection, and which of them the stream delivers."""

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
        return any(chosen.drops(message) for chosen in self.filters)

    def accepts(self, event: Event) -> bool:
        """Return whether each ``where`` accepts an event."""
        return all(chosen.holds(event) for chosen in self.filters)


class TablesByOid(dict[int, SubscribedTable | None]):
    """By OID; `None` for a table that the stream has not subscribed to."""

    def __missing__(self, oid: int) -> SubscribedTable | None:
        raise ProtocolError("row", 1, "of an unknown relation")


class Unwanted(TablesByOid):
    """Drops every row: the transaction was delivered before."""

    def __missing__(self, oid: int) -> None:
        return None


class SubscribedTables:
    """
    Keeps the relations that one connection has described, as the stream delivers them.

    Args:
        models: The models of the stream's database.

    Attributes:
        by_oid: The relations; a later `configure` updates the same dict.
    """

    def __init__(self, models: ModelTables) -> None:
        self.by_oid = TablesByOid()
        self._models = models
        self._types = ColumnTypes(models.alias)
        self._relations: dict[int, Relation] = {}
        self._subscriptions = Subscriptions([])
        self._filters: list[tuple[Subscriptions, Filter]] = []

    def configure(self, config: StreamConfig) -> None:
        """Apply the subscriptions and filters of a configuration."""
        self._subscriptions = Subscriptions(config.subscriptions)
        self._filters = [
            (Subscriptions([entry]), chosen) for entry, chosen in config.filters.items()
        ]
        for oid, relation in self._relations.items():
            self.by_oid[oid] = self._subscribed(relation)

    def add(self, relation: Relation) -> None:
        """Add a relation, or replace it by its new description."""
        self._relations[relation.oid] = relation
        self.by_oid[relation.oid] = self._subscribed(relation)

    def add_type(self, message: Type) -> None:
        """Add the description of a type that is not built in."""
        self._types.add(message)

    def _subscribed(self, relation: Relation) -> SubscribedTable | None:
        name = TableName(relation.schema, relation.name)
        lineage = self._models.lineage(name, relation.oid)
        if not self._subscriptions.cover(lineage):
            if not (lineage.model or lineage.exists):
                logger.warning(
                    "The table %s is gone, and nothing tells whose it was: its changes"
                    " are not delivered. Subscribe to it by its name to get them.",
                    name,
                    extra={"table": str(name)},
                )
            return None
        if lineage.model:
            self._models.warn_of_misfit(
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
            is_whole=relation.replica_identity != "f"
            or self._models.has_full_identity(relation.oid),
        )
        filters = [chosen for tables, chosen in self._filters if tables.cover(lineage)]
        table.sensitive = frozenset(
            chain.from_iterable(each.sensitive_columns(table) for each in filters)
        )
        made = [each for chosen in filters if (each := chosen.for_table(table))]
        return SubscribedTable(table, made)
