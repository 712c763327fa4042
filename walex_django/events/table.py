"""Relations to models, rows to records and instances."""

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
    Where an event comes from.

    Attributes:
        name: ``"walex_django"``.
        version: of walex_django.
        db: alias of the database in ``DATABASES``.
        schema, table: as in the catalogue, unquoted.
        columns: the SQL name of each column's type, by column.
    """

    name: str = "walex_django"
    version: str = field(default=__version__, compare=False)
    db: str
    schema: str
    table: str
    columns: Mapping[str, str] = field(hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name."""
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
    One table as a RELATION message described it.

    Args:
        relation: the message.
        model: the concrete model of the table, if it has one.
        lineage: whose it is, where that is known.
        is_whole: its old rows are whole if they are marked so.
        alias: of the database, for instances.
        types: of the columns.
        version: of the walex_django that made the events.

    Attributes:
        sensitive: the columns whose values are not shown.

    What is the same for all rows is worked out once, when first needed.
    """

    def __init__(
        self,
        relation: Relation,
        *,
        model: type[Model] | None,
        alias: str,
        types: Sequence[ColumnType],
        lineage: Lineage | None = None,
        is_whole: bool = True,
        version: str = __version__,
    ) -> None:
        self.name = TableName(relation.schema, relation.name)
        self.model = model
        self.lineage = lineage
        self.is_whole = is_whole
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
        self._records = RowLoader([type.record_oid for type in types])
        self._instances: InstanceLoader | None = None

    def record(self, row: Row) -> dict[str, Any]:
        """Return the Python values of a whole row by column."""
        return dict(zip(self.column_names, self.load(row), strict=True))

    def load(self, row: Row) -> tuple[Any, ...]:
        """Return the Python values of a row, in the order of the columns."""
        return self._records.load(row)

    def value(self, index: int, row: Row) -> Any:
        """Return the Python value of one column."""
        return self._records.load_one(index, row[index])

    def old_row(self, message: RowMessage | Truncate) -> Row | None:
        """Return the old row with `UNCHANGED` where the server told nothing."""
        if not isinstance(message, Update | Delete):
            return None
        if message.old is not None and not self.is_whole:
            return PartialRow(UNCHANGED if v is None else v for v in message.old)
        if message.old is not None or message.key is None:
            return message.old
        # The NULLs of what is not the key tell nothing.
        return PartialRow(
            value if column.is_key else UNCHANGED
            for value, column in zip(message.key, self.columns, strict=True)
        )

    def new_row(self, message: RowMessage | Truncate) -> Row | None:
        """Return the new row with `UNCHANGED` where the server told nothing."""
        if isinstance(message, Insert):
            return message.new
        if not isinstance(message, Update):
            return None
        if message.old is None or type(message.new) is not PartialRow:
            return message.new
        # REPLICA IDENTITY FULL: the old row has what was not sent with the new.
        old_row = self.old_row(message)
        assert old_row is not None
        return PartialRow(
            old if new is UNCHANGED else new
            for new, old in zip(message.new, old_row, strict=True)
        )

    def field_value(self, index: int, value: Value) -> Any:
        """Return the value of one column as the model's field has it, if any has."""
        loader = self._instance_loader()
        if loader and (found := loader.load_one(index, value)):
            return found[0]
        return self._records.load_one(index, value)

    def instance(self, row: Row) -> Model | None:
        """Return a model instance; what is `UNCHANGED` in the row is deferred."""
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
