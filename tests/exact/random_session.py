"""A session that writes to tables, and what it has locked and changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from .random_tables import Column, Table

Connection = psycopg.Connection[Any]


class Session:
    """
    A session and its transaction.

    Attributes:
        left: how many changes it will make still.
        rows: how many it has changed.
        some, whole: tables of which it has locked rows, or all.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.left = self.rows = 0
        self.some: set[str] = set()
        self.whole: set[str] = set()
        self._undo: list[tuple[Table, list[Column]]] = []
        self._saved = (0, 0)
        self._begin()

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; return how many rows it wrote."""
        return self.connection.execute(statement.encode(), parameters).rowcount

    def change(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement that changes rows; return how many."""
        rows = self.run(statement, parameters)
        self.rows += rows
        return rows

    def remember(self, table: Table) -> None:
        """Let a rollback undo what becomes of the table's columns."""
        self._undo.append((table, table.columns))

    def save(self) -> None:
        """Set a savepoint."""
        self.run("SAVEPOINT here")
        self._saved = self.rows, len(self._undo)

    def roll_back_to_savepoint(self) -> None:
        """Undo what was done since."""
        self.run("ROLLBACK TO here")
        self.rows, kept = self._saved
        self._forget(kept)

    def roll_back(self) -> None:
        """Undo the transaction and begin another."""
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
        self.some.clear()
        self.whole.clear()
        self._undo.clear()
        # Were one to wait for the other, both would for ever.
        self.run("SET LOCAL lock_timeout = '5s'")
