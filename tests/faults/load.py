"""Writers on three connections, and whether a listener heard all that they wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from random import Random
from threading import Condition, Thread
from typing import Any, Self

import psycopg

from .ledger import Entry

WRITERS = 3
_MOST_ROWS = 300  # of its own that a writer remembers, to update and to delete


class Draft:
    """
    A transaction of a writer, until it is committed.

    Attributes:
        changes: as `tests.zoo.ledger.label` will have them, in order.
        rows: primary keys of the writer's rows, if this is committed.
        mark: a row that is there if this is committed, in a table not published.
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
        """Do one thing or several."""
        steps = [self._insert, self._insert_many, self._update, self._delete]
        steps.append(self._part)
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

    def _part(self) -> None:
        """Do some of it behind a savepoint, and perhaps undo that."""
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
    Writes rows of its own, one transaction after the other.

    Where the connection breaks in COMMIT, nobody knows whether that was done: it looks
    when the server is back.

    Args:
        load: says how much to write.
        name: the names of its rows begin with it.
        url: of the database.
        random: decides what to write.

    Attributes:
        committed: its changes, in order.
        in_doubt: how often it had to look.
        failure: what ended it, if anything did.
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
        except Exception as error:  # noqa: BLE001 - `Load` raises it
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
        """Find out what became of the transaction whose COMMIT was not answered."""
        if (draft := self._unknown) is None:
            return
        # Waits for the old session, if the server has not done with it.
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
    Runs the writers while the ``with`` block lasts.

    Args:
        url: of the database.
        seed: of what they write.

    Attributes:
        writers: all of them.
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
        """Let the writers commit at least that many more changes; do not wait."""
        with self._changed:
            self._allowed = max(self._allowed, self._written) + changes
            self._changed.notify_all()

    def stop(self) -> None:
        """Wait until the writers have written what they may, and have ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._written >= self._allowed or self._failures()
            )
            self._ended = True
            self._changed.notify_all()
        self._join()

    def committed(self) -> set[str]:
        """Return all changes that were committed so far."""
        return set(chain.from_iterable(writer.committed for writer in self.writers))

    def is_on(self) -> bool:
        """Return whether to write, when that is decided. For writers, as below."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._written < self._allowed)
            return not self._ended

    def pause(self) -> None:
        """Wait before another attempt to connect."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, 0.02)

    def add(self, changes: int) -> None:
        """Count what was committed."""
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

    def check(self, heard: Sequence[Entry]) -> int:
        """
        Assert that all was heard of, in order, and nothing else.

        Returns how many events were repeated.
        """
        changes_by_id: dict[str, str] = {}
        for id, change in heard:
            assert changes_by_id.setdefault(id, change) == change, f"one id: {id}"
        once = list(dict.fromkeys(entry.change for entry in heard))
        assert len(once) == len(changes_by_id), "a change came under two ids"
        expected = [set(writer.committed) for writer in self.writers]
        never_written = set(once).difference(*expected)
        assert not never_written, sorted(never_written)[:9]
        for writer, own in zip(self.writers, expected, strict=True):
            lost = own.difference(once)
            assert not lost, f"{len(lost)} lost: {sorted(lost)[:9]}"
            assert [change for change in once if change in own] == writer.committed
        return len(heard) - len(once)
