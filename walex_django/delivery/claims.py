"""Claims on parked events, so that two replays do not repeat the same call."""

from __future__ import annotations

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from walex_django.models import ParkedEvent


class Claims:
    """
    Locks the row of one parked event at a time, in a connection of its own.

    The receiver's own connection stays free of transactions, and the lock ends with
    this process. Databases without row locks, such as SQLite, have no claims.

    Args:
        alias: The alias of the database with the parked events.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._connection: BaseDatabaseWrapper | None = None

    def take(self, parked: ParkedEvent) -> bool:
        """Claim a parked event; return whether it exists and nobody else claims it."""
        if not connections[self._alias].features.has_select_for_update_skip_locked:
            return True
        try:
            return self._lock(parked)
        except (OperationalError, InterfaceError):
            # The server may have closed an idle connection.
            self.close()
            return self._lock(parked)

    def delete(self, parked: ParkedEvent) -> None:
        """Delete the claimed event, and end the claim."""
        if self._connection is None:
            ParkedEvent.objects.using(self._alias).filter(pk=parked.pk).delete()
            return
        with self._connection.cursor() as cursor:
            cursor.execute(f"DELETE {self._place()}", [parked.pk])
        self._connection.commit()

    def release(self) -> None:
        """End the claim."""
        if self._connection is not None:
            self._connection.rollback()

    def close(self) -> None:
        """End the claim, if any, and close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _lock(self, parked: ParkedEvent) -> bool:
        if self._connection is None:
            self._connection = _connect(self._alias)
        connection = self._connection
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                # A receiver may run longer than the role's transactions may.
                cursor.execute(_UNLIMITED)
            lock = connection.ops.for_update_sql(skip_locked=True)
            cursor.execute(f"SELECT 1 {self._place()} {lock}", [parked.pk])
            found = cursor.fetchone() is not None
        if not found:
            connection.rollback()
        return found

    def _place(self) -> str:
        table, key = map(
            connections[self._alias].ops.quote_name,
            (ParkedEvent._meta.db_table, ParkedEvent._meta.pk.attname),
        )
        return f"FROM {table} WHERE {key} = %s"


_UNLIMITED = """
SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings
WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""


def _connect(alias: str) -> BaseDatabaseWrapper:
    template = connections[alias]
    options = template.settings_dict["OPTIONS"]
    settings = {
        **template.settings_dict,
        # The pool may have no connection left besides that of the receiver.
        "OPTIONS": {key: options[key] for key in options if key != "pool"},
    }
    connection = type(template)(settings, alias)
    connection.set_autocommit(False)
    return connection
