"""A schema for a test's tables, and a listener on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from psycopg import sql

from tests.listening import TIMEOUT, Listening
from tests.process import eventually
from walex_django import Event
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.replication import connection as replication
from walex_django.signals import post_db_insert

PUBLICATION, MARKS, SLOT = "atlas_events", "atlas_marks", "atlas_walex"


class Atlas:
    """
    The schema ``atlas`` and a listener on its tables.

    Args:
        connection: A connection in autocommit mode.
        stack: The stack of contexts that end with the test.
        backlog: Whether the listener starts after all changes, not before them.

    Attributes:
        config: The stream's configuration. Change it only before `watch`.
        version: The server's major version, such as 15.
    """

    def __init__(
        self, connection: replication.Connection, stack: ExitStack, *, backlog: bool
    ) -> None:
        self.connection = connection
        self.backlog = backlog
        self.version = connection.info.server_version // 10000
        self.config: StreamConfig = replace(
            get_config("default"),
            publications=(PUBLICATION, MARKS),
            slot_name=SLOT,
            durable_slot=backlog,
            subscriptions=("atlas.*",),
        )
        self._stack = stack
        self._listening: Listening | None = None
        self._marks = 0
        self.execute("CREATE TABLE atlas.mark ()")

    def execute(self, statements: str, parameters: Sequence[Any] = ()) -> None:
        """Run one or more statements; several form one transaction."""
        self.connection.execute(statements.encode(), parameters or None)

    def watch(
        self, what: str = "FOR ALL TABLES", *subscriptions: str, root: bool = False
    ) -> None:
        """
        Publish the tables, and start the listener unless it reads a backlog.

        Args:
            what: The tables to publish, in the syntax of CREATE PUBLICATION.
            subscriptions: The stream's subscriptions, by default the schema ``atlas``.
            root: Whether to publish partitions under the name of their root.
        """
        if subscriptions:
            named = (*subscriptions, "atlas.mark")
            self.config = replace(self.config, subscriptions=named)
        name = sql.Identifier(self.config.publications[0]).as_string()
        self.execute(f"CREATE PUBLICATION {name} {what} {_via(root=root, what=what)}")
        self.execute(f"CREATE PUBLICATION {MARKS} FOR TABLE atlas.mark")
        if self.backlog:
            self.connection.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')",
                [self.config.slot_name],
            )
        else:
            self.listen()

    def listen(self) -> None:
        """Start the listener."""
        assert self._listening is None
        self._listening = self._stack.enter_context(Listening(self.config))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Block the listener inside the ``with`` block."""
        halted, resumed = threading.Event(), threading.Event()

        def receiver(**kwargs: Any) -> None:
            halted.set()
            resumed.wait()

        post_db_insert.connect(receiver)
        try:
            self._mark()
            assert halted.wait(TIMEOUT)
            yield
        finally:
            post_db_insert.disconnect(receiver)
            resumed.set()

    def events(self) -> list[Event]:
        """Wait for all events since the last call; return them."""
        if self._listening is None:
            self.listen()
        listening = self._listening
        assert listening is not None
        self._mark()
        listening.wait_until(
            lambda: (
                listening.error is not None
                or sum(map(_is_mark, listening.events)) == self._marks
            )
        )
        if listening.error:
            raise listening.error
        events = [event for event in listening.events if not _is_mark(event)]
        listening.events.clear()
        self._marks = 0
        return events

    def _mark(self) -> None:
        self._marks += 1
        self.execute("INSERT INTO atlas.mark DEFAULT VALUES")


def _via(*, root: bool, what: str) -> str:
    if "WITH (" in what:
        return ""
    return f"WITH (publish_via_partition_root = {str(root).lower()})"


def _is_mark(event: Event) -> bool:
    return event.name == "mark"


@contextmanager
def atlas(*, backlog: bool = False) -> Iterator[Atlas]:
    """Open an atlas; drop everything that the ``with`` block creates."""
    with replication.connect(get_config("default").connection_parameters()) as session:
        existing = _names(session)
        session.execute("CREATE SCHEMA atlas")
        try:
            with ExitStack() as stack:
                yield Atlas(session, stack, backlog=backlog)
        finally:
            if session.info.transaction_status.name != "IDLE":
                session.execute("ROLLBACK")
            eventually(lambda: not _active_slots(session), "the end of the listener")
            session.execute(
                "SELECT pg_drop_replication_slot(slot_name)"
                " FROM pg_replication_slots WHERE database = current_database()"
            )
            for kind, name in _names(session) - existing:
                session.execute(
                    sql.SQL("DROP {} IF EXISTS {} CASCADE").format(
                        sql.SQL(kind), sql.Identifier(name)
                    )
                )


def _active_slots(session: replication.Connection) -> bool:
    found = session.execute(
        "SELECT FROM pg_replication_slots WHERE active"
        " AND database = current_database()"
    )
    return found.fetchone() is not None


def _names(session: replication.Connection) -> set[tuple[str, str]]:
    """Return the kind and name of each object that a test can have created."""
    rows = session.execute("""
        SELECT 'SCHEMA', nspname FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT 'PUBLICATION', pubname FROM pg_publication
        UNION ALL SELECT 'SERVER', srvname FROM pg_foreign_server
        """)
    return set(rows)
