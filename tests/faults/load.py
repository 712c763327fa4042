"""Concurrent writers, and a check that all of their changes were delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from random import Random
from threading import Condition, Thread
from typing import Any, Self

import psycopg

from .ledger import Entry

WRITERS = 3
_MOST_ROWS = 300  # that a writer remembers in order to update and delete them


class Draft:
    """
    An uncommitted transaction of a writer.

    Attributes:
        changes: The changes in order, as `tests.zoo.ledger.label` writes them.
        rows: The primary keys of the writer's rows, if this is committed.
        mark: A row in an unpublished table, which exists only if this is committed.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        random: Random,
        names: Iterator[str],
        rows: list[int],
    ) -> None:
        self.changes: list[str] = []
        self.rows = rows[-_MOST_ROWS:]
        self._connection, self._random, self._names = connection, random, names
        self.mark = next(names)
        connection.execute("INSERT INTO zoo_mark VALUES (%s)", [self.mark])

    def fill(self) -> None:
        """Make one or more random changes."""
        steps = [self._insert, self._insert_many, self._update, self._delete]
        steps.append(self._insert_and_update_after_savepoint)
        count = self._random.choice([1, 1, 1, 2, 5])
        for step in self._random.choices(steps, weights=[4, 2, 4, 1, 2], k=count):
            step()

    def _insert(self, count: int = 1) -> None:
        names = [next(self._names) for _ in range(count)]
        inserted = self._connection.execute(
            "INSERT INTO zoo_keeper (name) SELECT unnest(%s::text[])"
            " RETURNING id, name",
            [names],
        )
        for pk, name in inserted:
            self.rows.append(pk)
            self.changes.append(f"insert {pk} {name}")

    def _insert_many(self) -> None:
        self._insert(self._random.randint(2, 20))

    def _update(self) -> None:
        if self.rows:
            pk, name = self._random.choice(self.rows), next(self._names)
            self._connection.execute(
                "UPDATE zoo_keeper SET name = %s WHERE id = %s", [name, pk]
            )
            self.changes.append(f"update {pk} {name}")

    def _delete(self) -> None:
        if self.rows:
            pk = self.rows.pop(self._random.randrange(len(self.rows)))
            self._connection.execute("DELETE FROM zoo_keeper WHERE id = %s", [pk])
            self.changes.append(f"delete {pk} -")

    def _insert_and_update_after_savepoint(self) -> None:
        """Change rows after a savepoint, and roll back to it half of the time."""
        before = list(self.changes), list(self.rows)
        self._connection.execute("SAVEPOINT part")
        self._insert()
        self._update()
        if self._random.random() < 0.5:
            self._connection.execute("ROLLBACK TO SAVEPOINT part")
            self.changes, self.rows = before
        else:
            self._connection.execute("RELEASE SAVEPOINT part")


class Writer:
    """
    A thread that writes its own rows, one transaction after another.

    If the connection breaks during COMMIT, the outcome is unknown: the writer checks it
    when the server is back.

    Args:
        load: The load that decides how much to write.
        name: The prefix of its rows' names.
        url: The database's URL.
        random: The source of randomness for what to write.

    Attributes:
        committed: Its committed changes, in order.
        in_doubt: The number of commits whose outcome it had to check.
        failure: The exception that ended it, if any.
    """

    def __init__(self, load: Load, name: str, url: str, random: Random) -> None:
        self.committed: list[str] = []
        self.in_doubt = 0
        self.failure: Exception | None = None
        self._load, self._url, self._random = load, url, random
        self._names = (f"{name}-{number}" for number in range(10**9))
        self._rows: list[int] = []
        self._unknown: Draft | None = None
        self.thread = Thread(target=self._run, name=f"writer-{name}")

    def _run(self) -> None:
        try:
            while self._load.is_on():
                try:
                    with psycopg.connect(self._url, connect_timeout=5) as connection:
                        self._settle(connection)
                        while self._load.is_on():
                            self._write(connection)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    self._load.pause()
        except Exception as error:  # noqa: BLE001 - `Load` reraises it
            self.failure = error

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        draft = Draft(connection, self._random, self._names, self._rows)
        draft.fill()
        if self._random.random() < 0.1:
            connection.rollback()
            return
        self._unknown = draft
        connection.commit()
        self._unknown = None
        self._keep(draft)

    def _settle(self, connection: psycopg.Connection[Any]) -> None:
        """Find out whether the transaction with the unanswered COMMIT was committed."""
        if (draft := self._unknown) is None:
            return
        # Waits for the old session if that still exists.
        absent = connection.execute(
            "INSERT INTO zoo_mark VALUES (%s) ON CONFLICT DO NOTHING RETURNING mark",
            [draft.mark],
        ).fetchone()
        connection.commit()
        self._unknown = None
        self.in_doubt += 1
        if absent is None:
            self._keep(draft)

    def _keep(self, draft: Draft) -> None:
        self._rows = draft.rows
        self.committed += draft.changes
        self._load.add(len(draft.changes))


class Load:
    """
    A context manager that runs the writers.

    Args:
        url: The database's URL.
        seed: The seed for what they write.

    Attributes:
        writers: The writers.
    """

    def __init__(self, url: str, *, seed: int) -> None:
        self._changed = Condition()
        self._allowed = self._written = 0
        self._ended = False
        self.writers = [
            Writer(self, str(number), url, Random(f"{seed}-{number}"))
            for number in range(WRITERS)
        ]

    def __enter__(self) -> Self:
        for writer in self.writers:
            writer.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._join()

    def write(self, changes: int) -> None:
        """Allow the writers at least that many more changes; do not wait for them."""
        with self._changed:
            self._allowed = max(self._allowed, self._written) + changes
            self._changed.notify_all()

    def stop(self) -> None:
        """Wait until the writers have made their changes and have ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._written >= self._allowed or self._failures()
            )
            self._ended = True
            self._changed.notify_all()
        self._join()

    def committed(self) -> set[str]:
        """Return all changes committed so far."""
        return set(chain.from_iterable(writer.committed for writer in self.writers))

    def is_on(self) -> bool:
        """Wait until a writer may write or must end; return whether it may write."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._written < self._allowed)
            return not self._ended

    def pause(self) -> None:
        """Wait before a writer connects again."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, 0.02)

    def add(self, changes: int) -> None:
        """Count the changes of a committed transaction."""
        with self._changed:
            self._written += changes
            self._changed.notify_all()

    def _failures(self) -> list[Exception]:
        return [writer.failure for writer in self.writers if writer.failure]

    def _join(self) -> None:
        for writer in self.writers:
            writer.thread.join()
        for failure in self._failures():
            raise failure

    def check(self, delivered: Sequence[Entry]) -> int:
        """
        Assert that exactly the committed changes were delivered, in order.

        Returns:
            The number of repeated events.
        """
        changes_by_id: dict[str, str] = {}
        for id, change in delivered:
            assert changes_by_id.setdefault(id, change) == change, f"one id: {id}"
        once = list(dict.fromkeys(entry.change for entry in delivered))
        assert len(once) == len(changes_by_id), "a change came under two ids"
        expected = [set(writer.committed) for writer in self.writers]
        never_written = set(once).difference(*expected)
        assert not never_written, sorted(never_written)[:9]
        for writer, own in zip(self.writers, expected, strict=True):
            lost = own.difference(once)
            assert not lost, f"{len(lost)} lost: {sorted(lost)[:9]}"
            assert [change for change in once if change in own] == writer.committed
        return len(delivered) - len(once)
