"""Copies of tables that are maintained only from events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg

from walex_django import UNCHANGED, Event, EventType

from .copied_table import CopiedTable, Row
from .random_tables import JOURNAL, Table, quoted

Connection = psycopg.Connection[Any]
Data = Mapping[str, Any]
"""What `Event.as_dict` returns."""

_BATCH = 400  # statements that are sent before their results are checked


class Replica:
    """
    Copies of tables in their own schemas.

    Args:
        connection: A connection that is not in autocommit mode.
        name: The prefix of the copies' schemas.
        tables: The originals, still empty.
        published_generated: Whether events have stored generated columns.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        tables: Sequence[Table],
        *,
        published_generated: bool,
    ) -> None:
        self._connection = connection
        self._sent: list[tuple[Event, psycopg.Cursor[Any], set[str] | None]] = []
        # All variants of all statements stay prepared.
        connection.prepared_max = None
        for schema in {table.schema for table in tables}:
            connection.execute(f"CREATE SCHEMA {quoted(name + schema)}".encode(), ())
        self._tables = {
            (table.schema, table.name): CopiedTable(
                connection,
                table,
                name + table.schema,
                published_generated=published_generated,
            )
            for table in tables
        }

    def apply(self, events: Iterable[tuple[Event, Data]]) -> None:
        """Apply the changes of events in order; check that each affects one row."""
        with self._connection.pipeline() as pipeline:
            for event, data in events:
                if len(self._sent) >= _BATCH:
                    pipeline.sync()
                    self._check()
                self._apply(event, data)
            pipeline.sync()
            self._check()

    def _apply(self, event: Event, data: Data) -> None:
        source = event.source
        if (source.schema, source.table) == JOURNAL:
            entry = event.new_record or {}
            if entry["statement"] is not None:
                table = self._tables[entry["schema"], entry["name"]]
                table.alter(entry["statement"])
            return
        table = self._tables[source.schema, source.table]
        table.check_types(source.columns)
        old = self._old_row(table, event, data)
        new = self._new_row(table, event, data)
        match event.type:
            case EventType.INSERT:
                assert new
                assert not old
                statement, names = table.insert()
                self._send(event, statement, table.parameters(new, names))
            case EventType.UPDATE:
                assert new
                statement, names = table.update(event.unchanged)
                where = table.parameters(old or new, table.identity)
                set_ = table.parameters(new, names)
                self._send(event, statement, where + set_, _changed(event))
            case EventType.DELETE:
                assert old
                assert not new
                where = table.parameters(old, table.identity)
                self._send(event, table.delete(), where)
            case EventType.TRUNCATE:
                assert not old
                assert not new
                self._connection.execute(table.truncate().encode(), ())

    def _old_row(self, table: CopiedTable, event: Event, data: Data) -> Row | None:
        """Return the old row, which has exactly the replica identity."""
        is_update = event.type is EventType.UPDATE
        assert (event.changes is not None) == (is_update and table.full)
        if event.old_record is None:
            assert data["old_record"] is None
            assert not table.full or event.type not in {"update", "delete"}
            return None
        assert event.old_record.keys() == {*table.identity}
        assert data["old_record"].keys() == {*table.identity}
        return Row(event.old_record, data["old_record"], data["exact"]["old_record"])

    def _new_row(self, table: CopiedTable, event: Event, data: Data) -> Row | None:
        """Return the new row, which has everything except unchanged TOASTed values."""
        if event.new_record is None:
            assert data["new_record"] is None
            return None
        row = Row(event.new_record, data["new_record"], data["exact"]["new_record"])
        assert row.values.keys() == table.types.keys()
        unchanged = [name for name, each in row.values.items() if each is UNCHANGED]
        assert [*event.unchanged] == unchanged == data["unchanged"]
        assert not (table.full and unchanged)
        assert row.json.keys() == row.values.keys() - {*unchanged}
        return row

    def _send(
        self,
        event: Event,
        statement: str,
        parameters: Sequence[str | None],
        changed: set[str] | None = None,
    ) -> None:
        cursor = self._connection.execute(statement.encode(), parameters)
        self._sent.append((event, cursor, changed))

    def _check(self) -> None:
        for event, cursor, changed in self._sent:
            assert cursor.rowcount == 1, f"{cursor.rowcount} rows for {event!r}"
            if changed is not None:
                ((differences,),) = cursor.fetchall()
                assert set(differences) == changed, event
        self._sent.clear()


def _changed(event: Event) -> set[str] | None:
    """Return the columns that an UPDATE changed, if the event has them."""
    changes, old, new = event.changes, event.old_record, event.new_record
    if changes is None:
        return None
    assert old
    assert new
    for name, change in changes.items():
        # NaN is not equal to itself.
        assert repr(change.old_value) == repr(old[name])
        assert repr(change.new_value) == repr(new[name])
    return set(changes)
