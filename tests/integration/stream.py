"""A stream that listener processes read, and operations on its slot."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from example_project.postgres import Postgres
from tests.process import Process, eventually, read_journal

from .test_mistakes import ONE


class Stream:
    """
    The first stream of the settings.

    Args:
        env: The environment of its processes.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement in a separate session; return the rows."""
        with psycopg.connect(self.env["ZOO_DATABASE_URL"], autocommit=True) as sql:
            cursor = sql.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, *names: str) -> None:
        """Commit a keeper with each name."""
        for name in names:
            self.execute("INSERT INTO zoo_keeper (name) VALUES (%s)", [name])

    def delivered(self) -> list[str]:
        """Return the names of the keepers that listeners delivered."""
        journal = Path(self.env["ZOO_JOURNAL"])
        return [line["label"] for line in read_journal(journal)]

    def acknowledged(self, name: str) -> bool:
        """Return whether a delivered keeper has been acknowledged."""
        journal = read_journal(Path(self.env["ZOO_JOURNAL"]))
        (lsn,) = {line["lsn"] for line in journal if line["label"] == name}
        return bool(
            self.execute(
                "SELECT slot_name FROM pg_replication_slots"
                " WHERE slot_name = 'zoo_walex' AND confirmed_flush_lsn > %s",
                [lsn],
            )
        )

    def run(self, command: str, *options: str) -> list[str]:
        """Run a command that succeeds; return its lines."""
        with Process(command, *options, env=self.env) as process:
            assert process.wait() == 0, process.output
            return process.lines

    @contextmanager
    def listening(self, *options: str) -> Iterator[Process]:
        """Run a listener; enter the block once it streams."""
        with Process("walex_listen", *ONE, *options, env=self.env) as listener:
            listener.wait_for("Quit with")
            yield listener

    def deliver(self, *names: str, end: signal.Signals = signal.SIGTERM) -> None:
        """Have a listener deliver and acknowledge these keepers, then end it."""
        with self.listening() as listener:
            if names:
                self.write(*names)
                eventually(
                    lambda: set(names) <= set(self.delivered()),
                    f"the delivery of {names}",
                )
                eventually(self._is_acknowledged, "the acknowledgement")
            listener.signal(end)
            status = 0 if end == signal.SIGTERM else -end
            assert listener.wait() == status, listener.output

    def _is_acknowledged(self) -> bool:
        return bool(
            self.execute(
                "SELECT slot_name FROM pg_replication_slots"
                " WHERE slot_name = 'zoo_walex'"
                " AND confirmed_flush_lsn >= pg_current_wal_flush_lsn()"
            )
        )

    def drop_slot(self) -> None:
        """Drop the slot, which must be free."""
        self.execute("SELECT pg_drop_replication_slot('zoo_walex')")

    def create_slot(self) -> str:
        """Create the slot as another client might; return where it starts."""
        ((start,),) = self.execute(
            "SELECT lsn::text"
            " FROM pg_create_logical_replication_slot('zoo_walex', 'pgoutput')"
        )
        return str(start)

    def recreate_slot(self, *lost: str) -> str:
        """Recreate the slot, writing these keepers in between; return its start."""
        self.drop_slot()
        self.write(*lost)
        return self.create_slot()

    @contextmanager
    def blocked(self, lock: int) -> Iterator[None]:
        """Block the receivers of a keeper named ``wait for <lock>``."""
        with psycopg.connect(self.env["ZOO_DATABASE_URL"], autocommit=True) as sql:
            sql.execute("SELECT pg_advisory_lock(%s)", [lock])
            yield

    def is_blocked(self) -> bool:
        """Return whether a session waits for a lock."""
        return bool(self.execute("SELECT pid FROM pg_locks WHERE NOT granted"))


class OwnStream(Stream):
    """
    The stream on its own server.

    Attributes:
        server: The server, which may be stopped and started.
    """

    def __init__(self, env: dict[str, str], server: Postgres) -> None:
        super().__init__(env)
        self.server = server

    def restart_server(self, mode: str) -> None:
        """Restart the server, stopping it in this mode."""
        self.server.stop(mode)
        self.server.start()


def reached(line: str) -> str:
    """Return the first position that an error names."""
    return line.partition("read up to ")[2].split(maxsplit=1)[0].rstrip(":.,")
