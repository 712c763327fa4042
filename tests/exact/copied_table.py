"""The copy of a table and the SQL that changes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from json import dumps
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb

from walex_django import ExactText

from .random_tables import Table, literal, quoted

# psycopg's values of these are less exact than the text, or it can't dump lists.
_INEXACT = {"interval", "interval[]", "inet[]", "int4range[]", "box[]"}


class Row(NamedTuple):
    """A row of an event: values in Python and JSON, and exact texts of some."""

    values: Mapping[str, Any]
    json: Mapping[str, Any]
    exact: Mapping[str, str]


class CopiedTable:
    """
    The copy of a table, with its current columns.

    Args:
        connection: A connection to the database.
        table: The original; the copy has all of it but partitions and foreign keys.
        schema: The copy's schema.
        published_generated: Whether events have stored generated columns.

    Attributes:
        types: The type for a cast, by column; only columns that events have.
        identity: The columns of the replica identity; keys come first.
        full: Whether the replica identity is FULL.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        table: Table,
        schema: str,
        *,
        published_generated: bool,
    ) -> None:
        self._connection = connection
        self._transformer = Transformer(connection)
        self._sql = quoted(schema, table.name)
        self._without = {"v"} if published_generated else {"v", "s"}
        self.full = table.identity is None
        connection.execute(
            f"CREATE TABLE {self._sql} (LIKE {table.sql} INCLUDING ALL)".encode(), ()
        )
        self._checked: Mapping[str, str] = {}
        self._updates: dict[tuple[str, ...], tuple[str, list[str]]] = {}
        # Columns keep their numbers when their names change.
        numbers = self._numbers()
        self._keys = {numbers[column.name] for column in table.keys}
        self._identity = {numbers[name] for name in table.identity or ()}
        self._read_columns()

    def alter(self, statement: str) -> None:
        """Apply a statement that altered the original, called ``{table}`` in it."""
        self._connection.execute(statement.replace("{table}", self._sql).encode(), ())
        self._read_columns()

    def check_types(self, columns: Mapping[str, str]) -> None:
        """Assert that an event has the right columns and type names."""
        if columns == self._checked:
            return
        assert columns.keys() == self.types.keys()
        kinds = [self._kinds[name] for name in columns]
        wrong = self._connection.execute(_WRONG_TYPES, [[*columns.values()], kinds])
        assert wrong.fetchall() == []
        self._checked = columns

    def parameters(self, row: Row, names: list[str]) -> list[str | None]:
        """Return the values as psycopg dumps them, or texts that are more exact."""
        return [self._parameter(name, row) for name in names]

    def insert(self) -> tuple[str, list[str]]:
        """Return the SQL that inserts a row, and its parameters' columns."""
        names = self._writable
        columns = ", ".join(map(quoted, names))
        places = ", ".join(map(self._place, names))
        return f"INSERT INTO {self._sql} ({columns}) VALUES ({places})", names

    def update(self, unchanged: tuple[str, ...]) -> tuple[str, list[str]]:
        """
        Return the SQL that updates a row, and its parameters' columns.

        The parameters that identify the row come first. If the whole old row is known,
        the SQL returns the names of the columns whose values it changes.
        """
        if unchanged not in self._updates:
            names = [name for name in self._writable if name not in unchanged]
            sets = (f"{quoted(name)} = {self._place(name)}" for name in names)
            statement = (
                f"WITH was AS MATERIALIZED ({self._find()}) UPDATE {self._sql} AS t"
                f" SET {', '.join(sets)} FROM was WHERE t.ctid = was.place"
            )
            if self.full:
                statement += f" RETURNING {self._differences()}"
            self._updates[unchanged] = statement, names
        return self._updates[unchanged]

    def delete(self) -> str:
        """Return the SQL that deletes a row."""
        return (
            f"WITH was AS MATERIALIZED ({self._find()}) DELETE FROM {self._sql} AS t"
            " USING was WHERE t.ctid = was.place"
        )

    def truncate(self) -> str:
        """Return the SQL that deletes all rows."""
        return f"TRUNCATE {self._sql}"

    def _numbers(self) -> dict[str, int]:
        return {name: number for name, number, *_ in self._columns()}

    def _columns(self) -> list[tuple[Any, ...]]:
        name = self._sql.replace("%%", "%")
        return self._connection.execute(_COLUMNS, [name]).fetchall()

    def _read_columns(self) -> None:
        columns = self._columns()
        published = [each for each in columns if each[-1] not in self._without]
        self.types = {name: type for name, _, type, *_ in published}
        self._kinds = {name: kind for name, _, _, kind, _ in published}
        self._writable = [name for name, *_, generated in published if not generated]
        self._key_names = [
            name for name, number, *_ in published if number in self._keys
        ]
        identity = [
            name
            for name, number, *_ in published
            if self.full or number in self._identity
        ]
        self.identity = sorted(identity, key=lambda name: name not in self._key_names)
        self._checked = {}
        self._updates = {}

    def _place(self, name: str) -> str:
        return f"%s::{self.types[name]}"

    def _find(self) -> str:
        """Return a query for the old row."""
        conditions = (
            f"t.{quoted(name)} = {self._place(name)}"
            if name in self._key_names
            else f"t.{quoted(name)}::text IS NOT DISTINCT FROM"
            f" ({self._place(name)})::text"
            for name in self.identity
        )
        # Without a key, any one of several identical rows will do.
        limit = "" if self._keys else " LIMIT 1"
        return (
            f"SELECT t.ctid AS place, t AS row FROM {self._sql} AS t"
            f" WHERE {' AND '.join(conditions)}{limit}"
        )

    def _differences(self) -> str:
        names = (
            f"CASE WHEN (was.row).{quoted(name)}::text IS DISTINCT FROM"
            f" t.{quoted(name)}::text THEN {literal(name)} END"
            for name in self.types
        )
        return f"array_remove(ARRAY[{', '.join(names)}]::text[], NULL)"

    def _parameter(self, name: str, row: Row) -> str | None:
        value = _value(self._kinds[name], name, row)
        if value is None or isinstance(value, str):
            return value
        # As text, so that the statement does not depend on the value's Python type.
        dumper = self._transformer.get_dumper(value, PyFormat.TEXT)
        dumped = dumper.dump(value)
        return None if dumped is None else bytes(dumped).decode()


def _value(kind: str, name: str, row: Row) -> Any:
    value, exact = row.values[name], row.exact.get(name)
    if kind in {"json", "jsonb", "jsonb[]"}:
        if exact is not None or value is None:
            return exact
        text = row.json[name]
        return (
            text if kind == "jsonb[]" and isinstance(text, str) else _json(value, kind)
        )
    text = row.json[name] if exact is None else exact
    if kind in _INEXACT or isinstance(value, ExactText):
        return text
    if isinstance(value, list) and isinstance(text, str) and text.startswith("["):
        return text  # its first index is not 1
    return value


def _json(value: Any, kind: str) -> Any:
    if kind == "jsonb[]" and isinstance(value, list):
        return [_json(item, kind) for item in value]
    return None if value is None else Jsonb(value, partial(dumps, ensure_ascii=False))


_COLUMNS = """
SELECT attname, attnum, format_type(atttypid, atttypmod), format_type(atttypid, NULL),
    attgenerated
FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

_WRONG_TYPES = """
SELECT reported, kind FROM unnest(%s::text[], %s::text[]) AS types(reported, kind)
WHERE to_regtype(reported) IS DISTINCT FROM to_regtype(kind)
"""
