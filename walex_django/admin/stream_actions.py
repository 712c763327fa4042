"""The admin's actions on streams and slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.utils.translation import gettext as _

from walex_django.conf import stored
from walex_django.conf.configs import get_configs
from walex_django.conf.receivers_database import known_error
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning import checkpoints
from walex_django.replication import server, slots
from walex_django.replication.connection import Connection, connect, sql_error
from walex_django.replication.errors import NotPrepared, ReplicationError, SlotMissing
from walex_django.replication.slots import Slot

_TIMEOUT = 3  # seconds to wait for a server; a user is waiting for the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """
    A slot that the user wants to drop.

    Attributes:
        slot: The slot.
        owners: The streams that read from it.
        obstacle: Why it cannot be dropped; empty if it can.
    """

    slot: Slot
    owners: Sequence[str]
    obstacle: str


def candidate(config: StreamConfig, name: str) -> Candidate:
    """
    Return a slot with what the user has to know before dropping it.

    Args:
        config: The configuration of a stream on the slot's server.
        name: The name of the slot.

    Raises:
        ReplicationError: The slot does not exist, or the server cannot be queried.
    """
    with _connected(config, name) as connection:
        slot = _find(connection, name)
        return Candidate(
            slot=slot,
            owners=_owners(config, connection, name),
            obstacle=obstacle(slot),
        )


def drop(config: StreamConfig, name: str) -> None:
    """
    Drop a slot that has no reader, together with its checkpoint.

    Args:
        config: The configuration of a stream on the slot's server.
        name: The name of the slot.

    Raises:
        ReplicationError: The slot does not exist or has a reader, or the server
            refused.
    """
    with _connected(config, name) as connection:
        if reason := obstacle(_find(connection, name)):
            raise ReplicationError(reason)
        try:
            slots.drop(connection, name)
        except NotPrepared as error:
            statement = slots.drop_statement(name).as_string(connection)
            hint = _("Run as a role with the attribute REPLICATION: %s;") % statement
            raise NotPrepared(error.reason, hint=hint) from error
        system, _database = server.identity(connection)
        checkpoints.forget(system, name)


def set_paused(config: StreamConfig, paused: bool) -> str:
    """
    Pause or resume a stream.

    Args:
        config: The stream's configuration.
        paused: Whether to pause the stream, or to resume it.

    Returns:
        Why its listener could not be notified; empty if it was.

    Raises:
        ReplicationError: The change could not be stored.
    """
    try:
        stored.change(config, "replace", "PAUSED", paused)
    except (DatabaseError, ImproperlyConfigured) as error:
        reason = _reason(error)
        if not _is_stored(config, paused):
            raise ReplicationError(reason) from error
        return reason
    return ""


def _is_stored(config: StreamConfig, paused: bool) -> bool:
    try:
        return stored.kept(config.name).get("PAUSED") is paused
    except DatabaseError:
        return False


def _reason(error: Exception) -> str:
    known = known_error(error) if isinstance(error, DatabaseError) else None
    return " ".join(str(known or error).split())


@contextmanager
def _connected(config: StreamConfig, slot: str) -> Iterator[Connection]:
    try:
        with _connect(config) as connection:
            yield connection
    except psycopg.Error as error:
        raise sql_error(error, slot=slot) from error


def _connect(config: StreamConfig) -> Connection:
    return connect(config.connection_parameters(), timeout=_TIMEOUT)


def _find(connection: Connection, name: str) -> Slot:
    slot = slots.find(connection, name)
    if slot is None:
        raise SlotMissing(_("The slot “%(name)s” does not exist.") % {"name": name})
    return slot


def obstacle(slot: Slot) -> str:
    """Return why a slot cannot be dropped, or an empty string if it can."""
    names = {"name": slot.name, "pid": slot.active_pid}
    if slot.synced:
        text = _(
            "The slot “%(name)s” is synchronized from the primary. Drop it on the"
            " primary."
        )
        return text % names
    if slot.temporary:
        text = _(
            "The slot “%(name)s” is temporary. It is dropped when its connection"
            " closes."
        )
        return text % names
    if slot.active_pid is not None:
        text = _(
            "The slot “%(name)s” is in use by PostgreSQL process %(pid)s. Stop its"
            " listener first."
        )
        return text % names
    return ""


def _owners(config: StreamConfig, connection: Connection, slot: str) -> list[str]:
    """Return the streams that read from a slot of this server."""
    system, _database = server.identity(connection)
    return [
        other.name
        for other in get_configs().values()
        if other.slot_name == slot and _is_on(other, system, config)
    ]


def _is_on(other: StreamConfig, system: int, config: StreamConfig) -> bool:
    if (other.database, other.url) == (config.database, config.url):
        return True
    try:
        with _connect(other) as connection:
            return server.identity(connection)[0] == system
    except (psycopg.Error, ReplicationError):
        return True  # better to ask for a reason needlessly than to miss an owner
