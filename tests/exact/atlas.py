"""Tables that a test makes for itself, and the events of their changes."""

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
    The schema ``atlas``, whose tables one listener hears of.

    Args:
        connection: in autocommit.
        stack: of what ends with the test.
        backlog: whether the listener begins after all that is written, and not before.

    Attributes:
        config: of the stream; to be changed before `watch`.
        version: of the server, such as 15.
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
        """Run statements, which are one transaction if there are several."""
        self.connection.execute(statements.encode(), parameters or None)

    def watch(
        self, what: str = "FOR ALL TABLES", *subscriptions: str, root: bool = False
    ) -> None:
        """
        Deliver all changes from now on.

        Args:
            what: to publish, as CREATE PUBLICATION has it.
            subscriptions: of the stream; by default all of the schema ``atlas``.
            root: publish partitions by the name of their root.
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
        """Let the listener read nothing while the ``with`` block lasts."""
        halted, go_on = threading.Event(), threading.Event()

        def receiver(**kwargs: Any) -> None:
            halted.set()
            go_on.wait()

        post_db_insert.connect(receiver)
        try:
            self._mark()
            assert halted.wait(TIMEOUT)
            yield
        finally:
            post_db_insert.disconnect(receiver)
            go_on.set()

    def events(self) -> list[Event]:
        """Return the events since the last call: all, and no others."""
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
    """Open an atlas; all that is made in the ``with`` block goes with it."""
    with replication.connect(get_config("default").connection_parameters()) as session:
        there = _names(session)
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
            for kind, name in _names(session) - there:
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
    """Return what a test may have made: its kind and its name."""
    rows = session.execute("""
        SELECT 'SCHEMA', nspname FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT 'PUBLICATION', pubname FROM pg_publication
        UNION ALL SELECT 'SERVER', srvname FROM pg_foreign_server
        """)
    return set(rows)
