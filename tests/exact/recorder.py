"""A listener on a test's tables, and the values that events should have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.listening import Listening
from walex_django import Event, ExactText
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.replication import connection as replication


class Recorder:
    """
    A connection that writes rows, and the events of these writes.

    Args:
        connection: A connection in autocommit mode with a stream's settings.
        listening: The listener on the tables that the connection writes to.
    """

    def __init__(
        self, connection: replication.Connection, listening: Listening
    ) -> None:
        self.connection = connection
        self.listening = listening

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Event]:
        """Run a statement that changes rows; return their events."""
        done = self.connection.execute(statement.encode(), parameters or None)
        return self.events(done.rowcount)

    def events(self, count: int) -> list[Event]:
        """Wait for that many events since the last call; return them."""
        events = list(self.listening.wait_for(count))
        self.listening.events.clear()
        return events

    def selected(self, table: str, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Return inserted rows as psycopg loads them, `ExactText` where it can't."""
        ids = [event.new_record["id"] for event in events if event.new_record]
        cursor = self.connection.execute(
            f"SELECT * FROM {table} WHERE id = ANY(%s) ORDER BY id".encode(), [ids]
        )
        names = [column.name for column in cursor.description or ()]
        try:
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except Exception:  # noqa: BLE001 - loaders raise whatever their parsers do
            return [
                {name: self._select_one(table, name, id) for name in names}
                for id in sorted(ids)
            ]

    def _select_one(self, table: str, column: str, id: int) -> Any:
        cursor = self.connection.execute(
            f'SELECT "{column}" FROM {table} WHERE id = %s'.encode(), [id]
        )
        assert cursor.pgresult is not None
        text = cursor.pgresult.get_value(0, 0)
        try:
            (value,) = cursor.fetchone() or ()
        except Exception:  # noqa: BLE001 - as above
            assert text is not None
            return ExactText(text.decode(errors="surrogateescape"))
        return value


@contextmanager
def recording(
    published: str,
    *subscriptions: str,
    before: str,
    after: str,
) -> Iterator[Recorder]:
    """
    Listen to tables inside the ``with`` block.

    Args:
        published: The publication's objects, such as ``TABLES IN SCHEMA zoo``.
        subscriptions: The stream's subscriptions.
        before: The SQL that creates the published objects.
        after: The SQL that drops them.
    """
    config = stream(*subscriptions)
    with replication.connect(config.connection_parameters()) as connection:
        connection.execute(before.encode())
        try:
            connection.execute(
                f"CREATE PUBLICATION exact_events FOR {published}".encode()
            )
            with Listening(config) as listening:
                yield Recorder(connection, listening)
        finally:
            connection.execute("DROP PUBLICATION IF EXISTS exact_events")
            connection.execute(after.encode())


def stream(*subscriptions: str) -> StreamConfig:
    """Return a stream with a temporary slot."""
    return replace(
        get_config("default"),
        publications=("exact_events",),
        slot_name="exact_walex",
        durable_slot=False,
        subscriptions=subscriptions,
    )
