"""Tables of the stream, and the conversion of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.db.models import Model

from walex_django.pgoutput.messages import (
    UNCHANGED,
    Delete,
    Insert,
    PartialRow,
    Relation,
    Row,
    RowMessage,
    Truncate,
    Update,
    Value,
)
from walex_django.pgoutput.values import RowLoader
from walex_django.replication.publications import TableName
from walex_django.version import __version__

from .catalogue import Lineage
from .column_types import ColumnType
from .instances import InstanceLoader


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """
    The origin of an event.

    Attributes:
        name: ``"walex_django"``.
        version: The version of walex_django.
        db: The alias of the database in ``DATABASES``.
        schema, table: The unquoted names, as in the system catalog.
        columns: The SQL name of each column's type, by column.
    """

    name: str = "walex_django"
    version: str = field(default=__version__, compare=False)
    db: str
    schema: str
    table: str
    columns: Mapping[str, str] = field(hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as a dict."""
        return {
            "name": self.name,
            "version": self.version,
            "db": self.db,
            "schema": self.schema,
            "table": self.table,
            "columns": dict(self.columns),
        }


class Table:
    """
    A table as described by a Relation message.

    Everything that is the same for all rows is computed once, on first use.

    Args:
        relation: The message.
        model: The concrete model of the table, if it has one.
        lineage: The lineage of the table, if known.
        alias: The database alias for instances.
        types: The types of the columns.
        version: The version of walex_django that created the events.

    Attributes:
        sensitive: The columns whose values are masked.
        partition_keys: For each partition that sends only the key of an old row under
            this table's name, the indexes of its key columns; `None` in place of
            indexes that are unknown.
    """

    def __init__(
        self,
        relation: Relation,
        *,
        model: type[Model] | None,
        alias: str,
        types: Sequence[ColumnType],
        lineage: Lineage | None = None,
        version: str = __version__,
    ) -> None:
        self.name = TableName(relation.schema, relation.name)
        self.model = model
        self.lineage = lineage
        self.alias = alias
        self.columns = relation.columns
        self.types = types
        self.column_names = [column.name for column in relation.columns]
        self.source = Source(
            db=alias,
            schema=relation.schema,
            table=relation.name,
            columns=MappingProxyType(
                {
                    column: type.name
                    for column, type in zip(self.column_names, types, strict=True)
                }
            ),
            version=version,
        )
        self.sensitive: frozenset[str] = frozenset()
        self.partition_keys: frozenset[frozenset[int] | None] = frozenset()
        self._key = frozenset(
            index for index, column in enumerate(relation.columns) if column.is_key
        )
        self._records = RowLoader([type.record_oid for type in types])
        self._instances: InstanceLoader | None = None

    def record(self, row: Row) -> dict[str, Any]:
        """Return the Python values of a complete row by column."""
        return dict(zip(self.column_names, self.load(row), strict=True))

    def load(self, row: Row) -> tuple[Any, ...]:
        """Return the Python values of a row, in the order of the columns."""
        return self._records.load(row)

    def value(self, index: int, row: Row) -> Any:
        """Return the Python value of one column."""
        return self._records.load_one(index, row[index])

    def old_row(self, message: RowMessage | Truncate) -> Row | None:
        """Return the old row, with `UNCHANGED` for values that weren't sent."""
        if not isinstance(message, Update | Delete):
            return None
        sent = message.key if message.old is None else message.old
        if sent is not None and not self.is_whole(sent):
            return PartialRow(UNCHANGED if value is None else value for value in sent)
        if message.old is not None or message.key is None:
            return message.old
        # In columns outside the key, NULL only means that the value wasn't sent.
        return PartialRow(
            value if column.is_key else UNCHANGED
            for value, column in zip(message.key, self.columns, strict=True)
        )

    def is_whole(self, old: Row) -> bool:
        """
        Return whether an old row is complete, and not just a partition's key.

        A row that is published under the name of a partitioned table is marked as the
        replica identity of that table demands, but contains what the identity of its
        partition had written to the WAL. The columns of a key are never NULL.
        """
        keys = self.partition_keys
        if not keys or None not in old:
            return True
        return None not in keys and _sent_indexes(old) not in keys

    def known_unchanged(self, sent: Row | None) -> frozenset[int]:
        """
        Return the indexes of the columns whose old values an UPDATE makes known.

        Args:
            sent: The old key, or `None` if the server sent none because the key has
                not changed.
        """
        if self.partition_keys:
            if sent is not None:
                return _sent_indexes(sent)
            return frozenset.intersection(
                *(key or frozenset() for key in self.partition_keys)
            )
        return self._key

    def new_row(self, message: RowMessage | Truncate) -> Row | None:
        """Return the new row, with `UNCHANGED` for values that weren't sent."""
        if isinstance(message, Insert):
            return message.new
        if not isinstance(message, Update):
            return None
        if message.old is None or type(message.new) is not PartialRow:
            return message.new
        # With REPLICA IDENTITY FULL, the old row has the values missing from the new.
        old_row = self.old_row(message)
        assert old_row is not None
        return PartialRow(
            old if new is UNCHANGED else new
            for new, old in zip(message.new, old_row, strict=True)
        )

    def field_value(self, index: int, value: Value) -> Any:
        """Return a column's value as its field (or, without one, a record) has it."""
        loader = self._instance_loader()
        if loader and (found := loader.load_one(index, value)):
            return found[0]
        return self._records.load_one(index, value)

    def instance(self, row: Row) -> Model | None:
        """Return a model instance, with the fields that are `UNCHANGED` deferred."""
        loader = self._instance_loader()
        return loader.load(row) if loader else None

    def _instance_loader(self) -> InstanceLoader | None:
        if self._instances is None and self.model is not None:
            oids = {
                name: type.oid
                for name, type in zip(self.column_names, self.types, strict=True)
            }
            self._instances = InstanceLoader(self.model, oids, self.alias)
        return self._instances


def _sent_indexes(row: Row) -> frozenset[int]:
    return frozenset(index for index, value in enumerate(row) if value is not None)
