"""What is configured for a stream, as typed values."""

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
"""Longest wait before something is tried again, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """
    One stream: a slot on a database, what it publishes and how it is read.

    Attributes:
        name: its key in ``WALEX``.
        database: alias in ``DATABASES``.
        url: where to connect instead of there, for replication only; a secret.
        publications: names of them.
        slot_name: lower-case letters, digits and underscores.
        durable_slot: the slot outlives the connection.
        failover: standbys keep a copy of the slot.
        subscriptions: tables to deliver, as written in the settings.
        filters: what is not delivered of tables that are named so too.
        replica_identity: what tables tell of their old rows, by tables as in
            ``subscriptions``: ``"FULL"``, ``"DEFAULT"``, ``"NOTHING"``, or an index.
        modules: dotted names of those that have handlers, besides the apps' ``walex``.
        message_middleware: is given each message, and `deliver`; or its dotted path.
        max_batch: most events handed over at once.
        status_interval: seconds between two signs of life for the server.
        messages: prefixes of the logical messages to deliver, or ``"*"``.
        atomic: receivers' database work and the checkpoint in one transaction.
        on_error: what becomes of a receiver's call when the retries are used up.
        max_retries: how often a call that failed is made again.
        retry_backoff: seconds before the first of these; each next wait is twice as
            long, up to `MAX_BACKOFF`.
        paused: the slot is kept, and nothing is read from it.
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
    paused: bool = False

    def middleware(self) -> Callable[..., object] | None:
        """
        Return ``MESSAGE_MIDDLEWARE`` as a callable.

        Raises:
            ImproperlyConfigured: there is nothing at its path.
        """
        named = self.message_middleware
        if not isinstance(named, str):
            return named
        try:
            found: Callable[..., object] = import_string(named)
        except ImportError as error:
            raise ImproperlyConfigured(f"MESSAGE_MIDDLEWARE: {error}") from error
        if not callable(found):
            raise ImproperlyConfigured(f"MESSAGE_MIDDLEWARE: {named} cannot be called")
        return found

    def retry_delays(self) -> Iterator[float]:
        """Return the seconds to wait before each retry."""
        for attempt in range(self.max_retries):
            yield min(self.retry_backoff * 2**attempt, MAX_BACKOFF)

    def connection_parameters(self) -> dict[str, Any]:
        """Return libpq's parameters for this stream's server; they hold secrets."""
        if self.url is not None:
            return parse_url(self.url)
        return libpq_parameters(self.database)

    def may_share_database(self, other: StreamConfig) -> bool:
        """Return whether another stream may be of the same database."""
        same_url = self.url is not None and other.url == self.url
        return same_url or other.database == self.database


def libpq_parameters(alias: str) -> dict[str, Any]:
    """Return libpq's parameters for a database of Django's; they hold secrets."""
    wrapper = cast("DatabaseWrapper", connections[alias])
    # The others belong to Django's cursors.
    return {
        key: value
        for key, value in wrapper.get_connection_params().items()
        if key not in {"context", "cursor_factory", "prepare_threshold"}
    }
