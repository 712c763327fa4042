"""Random changes of rows and tables in two sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from .random_session import Connection, Session
from .random_tables import JOURNAL, Column, Columns, Table, literal, quoted
from .random_values import KEYS, MOODS

_ROWS = 250  # approximate size of a table


class Changes:
    """
    A generator of random changes in two sessions with interleaved transactions.

    The last row of each transaction goes to the journal, with the transaction's place
    in the order of commits. The journal also records ALTER TABLE statements.

    Args:
        random: The source of randomness.
        sessions: Connections to the database, not in autocommit mode.
        tables: The tables; parents come before tables that refer to them.

    Attributes:
        rows: The number of committed row changes, not counting those by CASCADE.
        commits: The number of commits.
        done: The number of changes of each kind.
    """

    def __init__(
        self, random: Random, sessions: Sequence[Connection], tables: Sequence[Table]
    ) -> None:
        self.random, self.tables = random, tables
        self.rows = self.commits = 0
        self.done: dict[str, int] = {}
        self._sessions = [Session(connection) for connection in sessions]
        self._numbers = iter(range(1, 10**9))
        self._columns = Columns(random)

    def make(self, rows: int) -> None:
        """Make and commit changes until that many rows have changed."""
        moods = len(MOODS)
        try:
            while self.rows < rows:
                self._step(self.random.choice(self._sessions))
        finally:
            del MOODS[moods:]
        for session in self._sessions:
            self._commit(session)

    def _step(self, session: Session) -> None:
        if session.left > 0:
            session.left -= 1
            if self.random.random() < 0.08:
                self._savepoint(session)
            else:
                self._change(session)
            return
        if self.random.random() < 0.05:
            self._count("roll back")
            session.roll_back()
        else:
            self._commit(session)
        if self.random.random() < 0.05:
            self._new_mood(session)
        session.left = self.random.randint(1, 12)

    def _savepoint(self, session: Session) -> None:
        """Make changes after a savepoint, and usually roll them back."""
        session.save()
        for _ in range(self.random.randint(1, 3)):
            self._change(session)
        if self.random.random() < 0.7:
            self._count("roll back to savepoint")
            session.roll_back_to_savepoint()

    def _commit(self, session: Session) -> None:
        self.commits += 1
        session.run(
            f"INSERT INTO {quoted(*JOURNAL)} (id, place) VALUES (%s, %s)",
            [next(self._numbers), self.commits],
        )
        self.rows += session.rows
        session.commit()

    def _change(self, session: Session) -> None:
        table = self.random.choice(self.tables)
        crowd = table.size / _ROWS
        weights = {
            self._insert: 2,
            self._insert_many: 3 / (crowd + 0.3),
            self._copy: 1 / (crowd + 0.3),
            self._update: 8,
            self._update_keys: 2 if table.keys else 0,
            self._touch: 1,
            self._delete: 1 + 3 * crowd,
            self._truncate: 0.1,
            self._alter: 0.15,
        }
        (change,) = self.random.choices([*weights], [*weights.values()])
        whole = change in (self._truncate, self._alter) or self._has_family(table)
        if self._lock(session, table, whole=whole):
            self._count(change.__name__)
            change(session, table)

    def _has_family(self, table: Table) -> bool:
        return any(each.parent and each.family is table.family for each in self.tables)

    def _lock(self, session: Session, table: Table, *, whole: bool) -> bool:
        """Return whether the session can change a table without waiting for others."""
        name = table.family.sql
        for other in self._sessions:
            if other is not session and (
                name in other.table_locks or (whole and name in other.row_locks)
            ):
                return False
        (session.table_locks if whole else session.row_locks).add(name)
        return True

    def _count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def _new_row(self, table: Table) -> list[str | None]:
        return table.row(self.random, next(self._numbers))

    def _insert(self, session: Session, table: Table) -> None:
        self._insert_rows(session, table, 1)

    def _insert_many(self, session: Session, table: Table) -> None:
        self._insert_rows(session, table, self.random.randint(2, 25))

    def _insert_rows(self, session: Session, table: Table, count: int) -> None:
        rows = [self._new_row(table) for _ in range(count)]
        places = ", ".join(
            f"({', '.join(self._place(column, table) for column in table.writable)})"
            for _ in rows
        )
        names = ", ".join(quoted(column.name) for column in table.writable)
        session.change(
            f"INSERT INTO {table.sql} ({names}) VALUES {places}",
            [
                value
                for row in rows
                for value, column in zip(row, table.writable, strict=True)
                if not _refers(column, table)
            ],
        )
        table.size += count

    def _place(self, column: Column, table: Table) -> str:
        """Return a placeholder, or a subquery for one of the parent's keys."""
        if not _refers(column, table):
            return "%s"
        assert table.parent
        key = quoted(table.parent.keys[0].name)
        salt = self.random.random()
        return (
            f"(SELECT {key} FROM {table.parent.sql}"
            f" ORDER BY md5({key}::text || '{salt}') LIMIT 1)"
        )

    def _copy(self, session: Session, table: Table) -> None:
        columns = [each for each in table.writable if not _refers(each, table)]
        names = ", ".join(quoted(column.name) for column in columns)
        count = self.random.randint(5, 60)
        places = [table.writable.index(column) for column in columns]
        # Without parameters, % needs no escaping.
        statement = f"COPY {table.sql} ({names}) FROM STDIN".replace("%%", "%")
        with session.connection.cursor() as cursor:
            with cursor.copy(statement.encode()) as copy:
                for _ in range(count):
                    row = self._new_row(table)
                    copy.write_row([row[place] for place in places])
            session.rows += cursor.rowcount
        table.size += count

    def _update(self, session: Session, table: Table) -> None:
        free = [each for each in table.writable if not each.key]
        columns = self.random.sample(free, min(len(free), self.random.randint(1, 3)))
        count = self.random.choice([1, 1, 5, 40])
        self._set(
            session,
            table,
            count,
            ", ".join(
                f"{quoted(each.name)} = {self._place(each, table)}" for each in columns
            ),
            [each.value(self.random) for each in columns if not _refers(each, table)],
        )

    def _update_keys(self, session: Session, table: Table) -> None:
        for _ in range(self.random.randint(1, 4)):
            columns = self.random.sample(
                table.keys, self.random.randint(1, len(table.keys))
            )
            number = next(self._numbers)
            self._set(
                session,
                table,
                1,
                ", ".join(f"{quoted(column.name)} = %s" for column in columns),
                [KEYS[column.type](number) for column in columns],
            )

    def _touch(self, session: Session, table: Table) -> None:
        """Run an UPDATE that changes nothing."""
        column = quoted(self.random.choice(table.writable).name)
        self._set(
            session, table, self.random.randint(1, 5), f"{column} = t.{column}", []
        )

    def _set(
        self, session: Session, table: Table, count: int, what: str, values: list[Any]
    ) -> None:
        session.change(
            f"{self._chosen(table, count)} UPDATE {table.sql} AS t SET {what}"
            " FROM chosen WHERE (t.tableoid, t.ctid) = (chosen.a, chosen.b)",
            values,
        )

    def _delete(self, session: Session, table: Table) -> None:
        count = self.random.choice([1, 5, 40])
        table.size -= session.change(
            f"{self._chosen(table, count)} DELETE FROM {table.sql} AS t USING chosen"
            " WHERE (t.tableoid, t.ctid) = (chosen.a, chosen.b)",
            [],
        )

    def _chosen(self, table: Table, count: int) -> str:
        """Return a CTE of rows that the other session has not locked."""
        keys = ", ".join(f"t.{quoted(column.name)}" for column in table.keys) or "t"
        return (
            "WITH chosen AS MATERIALIZED (SELECT tableoid AS a, ctid AS b"
            f" FROM {table.sql} AS t ORDER BY"
            f" md5(ROW({keys})::text || '{self.random.random()}')"
            f" LIMIT {count} FOR UPDATE SKIP LOCKED)"
        )

    def _truncate(self, session: Session, table: Table) -> None:
        tables = [table]
        other = self.random.choice(self.tables)
        if other is not table and self._lock(session, other, whole=True):
            tables.append(other)
        names = ", ".join(each.sql for each in tables)
        restart = self.random.choice(["", "RESTART IDENTITY", "CONTINUE IDENTITY"])
        cascade = "CASCADE" if any(map(self._has_family, tables)) else ""
        session.run(f"TRUNCATE {names} {restart} {cascade}")
        for each in tables:
            each.size = 0
        session.rows += len(tables)

    def _alter(self, session: Session, table: Table) -> None:
        statement = self._altered(session, table)
        session.run(statement.replace("{table}", table.sql))
        session.run(
            f"INSERT INTO {quoted(*JOURNAL)} (id, statement, schema, name)"
            " VALUES (%s, %s, %s, %s)",
            [next(self._numbers), statement, table.schema, table.name],
        )

    def _altered(self, session: Session, table: Table) -> str:
        """Return the SQL that adds, drops, renames or retypes a column."""
        session.remember(table)
        names = [column.name for column in table.columns]
        what = self.random.choice(["ADD", "DROP", "RENAME", "TYPE"])
        if what == "ADD" or len(table.loose) < 4:
            added = self._columns.one(names)
            table.columns = [*table.columns, added]
            default = added.value(self.random)
            extra = f"DEFAULT {literal(default)}" if default is not None else ""
            return f"ALTER TABLE {{table}} ADD {added.definition} {extra}"
        column = self.random.choice(table.loose)
        if what == "DROP":
            table.columns = [each for each in table.columns if each is not column]
            return f"ALTER TABLE {{table}} DROP {quoted(column.name)}"
        place = table.columns.index(column)
        if what == "TYPE":
            table.columns = [*table.columns]
            table.columns[place] = replace(column, type="text")
            name = quoted(column.name)
            return f"ALTER TABLE {{table}} ALTER {name} TYPE text USING {name}::text"
        column = self.random.choice([*table.loose, *table.keys])
        place = table.columns.index(column)
        renamed = replace(column, name=self._columns.one(names).name)
        table.columns = [*table.columns]
        table.columns[place] = renamed
        return (
            f"ALTER TABLE {{table}} RENAME {quoted(column.name)}"
            f" TO {quoted(renamed.name)}"
        )

    def _new_mood(self, session: Session) -> None:
        mood = f"mood {next(self._numbers)}"
        session.run(f"""ALTER TYPE "odd types".mood ADD VALUE '{mood}'""")
        # A new label can't be used before its commit.
        session.commit()
        MOODS.append(mood)


def _refers(column: Column, table: Table) -> bool:
    return table.parent is not None and column.name == "parent"
