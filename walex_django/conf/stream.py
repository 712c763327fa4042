"""The typed configuration of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.utils.module_loading import import_string

from walex_django.filters import Filter
from walex_django.replication.connection import parse_url
from walex_django.subscriptions import ALL_TABLES

OnError: TypeAlias = Literal["park", "stop", "skip"]
MAX_BACKOFF: Final = 30.0
"""Longest wait before a retry, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """
    The configuration of one stream: a slot on a database, and how it is read.

    Attributes:
        name: The stream's key in ``WALEX``.
        database: The alias in ``DATABASES`` of the stream's database.
        url: Address for the replication connection, if it differs from the database's.
            It may contain a password.
        publications: Names of the publications.
        slot_name: Name of the slot: lower-case letters, digits and underscores.
        durable_slot: Whether the slot outlives the connection.
        failover: Whether standbys keep a copy of the slot.
        subscriptions: Tables to deliver, as written in the settings.
        filters: Filters by table, with tables named as in ``subscriptions``.
        replica_identity: Replica identity to set, by table as in ``subscriptions``:
            ``"FULL"``, ``"DEFAULT"``, ``"NOTHING"``, or the name of an index.
        modules: Dotted names of the modules with handlers, in addition to the ``walex``
            module of each app.
        message_middleware: A callable that gets each message and `deliver`, or its
            dotted path.
        max_batch: Maximum number of events delivered at once.
        status_interval: Seconds between two status updates to the server.
        messages: Prefixes of the logical messages to deliver, or ``"*"``.
        atomic: Whether the receivers' writes to their database are committed together
            with the checkpoint.
        on_error: What to do with a receiver call that fails after all retries.
        max_retries: Number of retries of a call that fails.
        retry_backoff: Seconds before the first retry. Each further wait is twice as
            long, up to `MAX_BACKOFF`.
        breaker_threshold: Number of consecutive calls of a receiver that fail after all
            retries before its further calls are tried only once; 0 for no limit.
        paused: Whether the listener holds the slot without reading from it.
    """

    name: str
    database: str = DEFAULT_DB_ALIAS
    url: str | None = field(default=None, repr=False)
    publications: tuple[str, ...]
    slot_name: str
    durable_slot: bool = False
    failover: bool = False
    subscriptions: tuple[str, ...] = (ALL_TABLES,)
    filters: Mapping[str, Filter] = field(default_factory=dict, hash=False)
    replica_identity: Mapping[str, str] = field(default_factory=dict, hash=False)
    modules: tuple[str, ...] = ()
    message_middleware: Callable[..., object] | str | None = None
    max_batch: int = 1000
    status_interval: float = 10
    messages: tuple[str, ...] = ()
    atomic: bool = False
    on_error: OnError = "park"
    max_retries: int = 5
    retry_backoff: float = 0.5
    breaker_threshold: int = 5
    paused: bool = False

    def middleware(self) -> Callable[..., object] | None:
        """
        Return ``MESSAGE_MIDDLEWARE`` as a callable.

        Raises:
            ImproperlyConfigured: If it can't be imported or called.
        """
        value = self.message_middleware
        if not isinstance(value, str):
            return value
        try:
            middleware: Callable[..., object] = import_string(value)
        except ImportError as error:
            raise ImproperlyConfigured(f"MESSAGE_MIDDLEWARE: {error}") from error
        if not callable(middleware):
            raise ImproperlyConfigured(f"MESSAGE_MIDDLEWARE: {value} is not callable")
        return middleware

    def retry_delays(self) -> Iterator[float]:
        """Yield the seconds to wait before each retry."""
        for attempt in range(self.max_retries):
            yield min(self.retry_backoff * 2**attempt, MAX_BACKOFF)

    def connection_parameters(self) -> dict[str, Any]:
        """
        Return the libpq parameters for the stream's replication connection.

        They include the password.
        """
        if self.url is not None:
            return parse_url(self.url)
        return libpq_parameters(self.database)

    def may_share_database(self, other: StreamConfig) -> bool:
        """Return whether another stream may use the same database."""
        same_url = self.url is not None and other.url == self.url
        return same_url or other.database == self.database


def libpq_parameters(alias: str) -> dict[str, Any]:
    """Return the libpq parameters of a database alias, including the password."""
    wrapper = cast("DatabaseWrapper", connections[alias])
    # These three configure Django's cursors.
    return {
        key: value
        for key, value in wrapper.get_connection_params().items()
        if key not in {"context", "cursor_factory", "prepare_threshold"}
    }
