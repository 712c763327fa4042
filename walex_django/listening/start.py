"""Checks of the server before a stream starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TypeAlias

from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import ModelTables
from walex_django.provisioning import checkpoints
from walex_django.provisioning.checkpoints import SlotPlace
from walex_django.provisioning.requirements import (
    require_one_database,
    require_published,
)
from walex_django.replication import publications, server, slots
from walex_django.replication.connection import Connection
from walex_django.replication.errors import (
    SlotInUse,
    SlotMissing,
    SlotWaiting,
)
from walex_django.replication.publications import TableName
from walex_django.replication.slots import Slot
from walex_django.replication.stream import ReplicationConnection
from walex_django.subscriptions import Subscriptions

OnSlotInUse: TypeAlias = Callable[[SlotInUse], None]

_SLOT_POLL = 0.5  # seconds between two checks of a slot that is in use


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """
    The state of the server when a stream starts.

    Attributes:
        config: The stream's configuration.
        database: The database's name on the server.
        server_version: The server's version, as the server reports it.
        tables: The published tables that the stream subscribes to.
        slot: The stream's slot, or `None` if it does not exist.
        standby: Whether the server is a standby.
    """

    config: StreamConfig
    database: str
    server_version: str
    tables: list[TableName]
    slot: Slot | None
    standby: bool


def prepare(
    config: StreamConfig,
    connection: Connection,
    *,
    stopped: Event,
    on_slot_in_use: OnSlotInUse | None,
) -> Start:
    """
    Check a stream's requirements and wait until its slot is free.

    Args:
        config: The stream's configuration.
        connection: A connection to the stream's database.
        stopped: A flag that ends the wait when it is set.
        on_slot_in_use: A callable that is called while another process reads from the
            slot. If `None`, a slot that is in use is an error.

    Returns:
        The state of the server, once the slot is free or ``stopped`` is set.

    Raises:
        ReplicationError: A requirement is not met; the error says how to fix it.
        ImproperlyConfigured: The settings do not match the database.
    """
    database = server.prepared_database(connection)
    require_one_database(config, connection)
    require_published(config, connection)
    slot = slots.find(connection, config.slot_name)
    while slot:
        try:
            slots.check(slot, database=database, durable=config.durable_slot)
            break
        except SlotInUse as error:
            if on_slot_in_use is None:
                raise
            on_slot_in_use(error)
        if stopped.wait(_SLOT_POLL):
            break
        slot = slots.find(connection, config.slot_name)
        # The wait may have been long, and the publication may have changed.
        require_published(config, connection)
    return Start(
        config=config,
        database=database,
        server_version=connection.info.parameter_status("server_version") or "",
        tables=_subscribed_tables(config, connection),
        slot=slot,
        standby=server.is_standby(connection),
    )


def _subscribed_tables(config: StreamConfig, connection: Connection) -> list[TableName]:
    subscriptions = Subscriptions(config.subscriptions)
    tables = publications.tables(connection, config.publications)
    lineages = ModelTables(config.database).lineages(tables)
    return [table for table in tables if subscriptions.cover(lineages[table])]


def locate_slot(start: Start, replication: ReplicationConnection) -> SlotPlace:
    """
    Return the place of a durable slot, after checking that no changes are lost.

    Args:
        start: The state of the server when the stream starts.
        replication: A replication connection that has not started streaming.

    Raises:
        SlotMissing: The slot does not exist.
        SlotBroken: The slot does not continue where it was last read: changes are lost.
        SlotWaiting: The server is a standby that has no copy of the slot yet.
        NotPrepared: ``FAILOVER`` is set, but standbys do not copy the slot.
    """
    # Another process may read from the slot meanwhile, so the order matters: slot,
    # checkpoint, server. What is read first may be older than the rest, never newer.
    config, slot = start.config, start.slot
    name = config.slot_name
    if slot is None and config.failover and start.standby:
        raise SlotWaiting(f'This standby has no copy of the slot "{name}" yet.')
    if slot and config.failover:
        slots.require_copied(slot)
    system, timeline = replication.identify()
    checkpoint = checkpoints.find(system, name)
    statistics = slots.statistics(replication.sql, name)
    if checkpoint:
        checkpoints.require_unbroken(
            checkpoint,
            slot,
            statistics=statistics,
            timeline=timeline,
            log_end=server.log_position(replication.sql),
            standby=start.standby,
        )
    if slot is None:
        raise SlotMissing(
            f'The slot "{name}" does not exist.',
            hint="Run: python manage.py walex_setup",
        )
    forked = checkpoint is not None and checkpoint.timeline not in {0, timeline}
    return SlotPlace(
        system=system,
        timeline=timeline,
        forks=replication.timeline_forks(timeline) if forked else {},
        statistics_since=statistics.since if statistics else None,
    )
