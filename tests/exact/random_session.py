"""A session that writes to tables, with its locks and changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from .random_tables import Column, Table

Connection = psycopg.Connection[Any]


class Session:
    """
    A session with an open transaction.

    Attributes:
        left: The number of changes that it has yet to make.
        rows: The number of rows that it has changed.
        row_locks: The tables in which it has locked rows.
        table_locks: The tables that it has locked as a whole.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.left = self.rows = 0
        self.row_locks: set[str] = set()
        self.table_locks: set[str] = set()
        self._undo: list[tuple[Table, list[Column]]] = []
        self._saved = (0, 0)
        self._begin()

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; return the number of rows that it wrote."""
        return self.connection.execute(statement.encode(), parameters).rowcount

    def change(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement that changes rows; return their number."""
        rows = self.run(statement, parameters)
        self.rows += rows
        return rows

    def remember(self, table: Table) -> None:
        """Save the table's columns so that a rollback can restore them."""
        self._undo.append((table, table.columns))

    def save(self) -> None:
        """Set a savepoint."""
        self.run("SAVEPOINT here")
        self._saved = self.rows, len(self._undo)

    def roll_back_to_savepoint(self) -> None:
        """Roll back to the savepoint."""
        self.run("ROLLBACK TO here")
        self.rows, kept = self._saved
        self._forget(kept)

    def roll_back(self) -> None:
        """Roll back the transaction and begin another."""
        self.connection.rollback()
        self._forget(0)
        self._begin()

    def commit(self) -> None:
        """Commit the transaction and begin another."""
        self.connection.commit()
        self._begin()

    def _forget(self, kept: int) -> None:
        while len(self._undo) > kept:
            table, columns = self._undo.pop()
            table.columns = columns

    def _begin(self) -> None:
        self.rows = 0
        self.row_locks.clear()
        self.table_locks.clear()
        self._undo.clear()
        # One thread runs both sessions, so a lock wait would never end.
        self.run("SET LOCAL lock_timeout = '5s'")
