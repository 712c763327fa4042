"""A periodic check that publications still contain what a running stream delivers."""

from __future__ import annotations

import time

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from walex_django.conf import configs
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning.named_tables import listed, subscribed_tables
from walex_django.replication import coverage, publications
from walex_django.replication.connection import Connection
from walex_django.replication.errors import PublicationMissing, ReplicationError
from walex_django.replication.publications import TableName
from walex_django.subscriptions import ALL_TABLES

_EVERY = 30.0  # seconds between two checks
_AT_LEAST = 5.0  # seconds between two checks if the stream describes new tables


class PublicationWatch:
    """
    Checks from time to time whether a stream's publications cover its subscriptions.

    A table that is dropped and recreated, as by ``migrate app zero``, is no longer part
    of its publication, and nothing in the stream shows it. The check reads the system
    catalog only, and waits for no lock on a table.

    Args:
        config: The stream's configuration.

    Attributes:
        problem: The problem found by the last check, or an empty string.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.problem = ""
        self._config = config
        self._checked_at: float | None = None
        self._covered: dict[TableName, int] = {}  # the OIDs that were once covered

    def reset(self) -> None:
        """Make the next check due, and forget the problem: the stream has stopped."""
        self.problem = ""
        self._checked_at = None

    def is_due(self, *, changed: bool) -> bool:
        """
        Return whether it is time for a check.

        Args:
            changed: Whether the stream has described a table since the last check.
        """
        if self._checked_at is None:
            return True
        interval = _AT_LEAST if changed else _EVERY
        return time.monotonic() - self._checked_at >= interval

    def check(self) -> None:
        """
        Update `problem`.

        Raises:
            django.db.Error: The database can't be queried.
        """
        self._checked_at = time.monotonic()
        config = configs.follow(self._config)
        wrapper = connections[config.database]
        wrapper.ensure_connection()
        try:
            with wrapper.wrap_database_errors:
                self._require(config, wrapper.connection)
        except (ReplicationError, ImproperlyConfigured) as error:
            self.problem = " ".join(str(error).split())
        else:
            self.problem = ""

    def _require(self, config: StreamConfig, connection: Connection) -> None:
        names = config.publications
        publications.require(connection, names)
        found = coverage.find(connection, names, subscribed_tables(config, connection))
        missing = [table for table, of in found.items() if not of.covered]
        if ALL_TABLES in config.subscriptions:
            # The stream takes whatever is published, so only a table that was
            # published under another OID is known to be missing.
            missing = [
                table
                for table in missing
                if self._covered.get(table, found[table].oid) != found[table].oid
            ]
        self._covered |= {table: of.oid for table, of in found.items() if of.covered}
        if missing:
            quoted = ", ".join(f'"{name}"' for name in names)
            raise PublicationMissing(
                f"These tables are missing from the publication {quoted}, and their"
                f" changes are lost: {listed(missing)}.",
                hint="Run: python manage.py walex_setup",
            )
