"""What a stream finds on its server before it begins."""

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

StandingBy: TypeAlias = Callable[[SlotInUse], None]

_STANDBY_POLL = 0.5  # seconds between two looks at a slot that somebody reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """
    What a stream finds when it starts.

    Attributes:
        config: of the stream.
        database: its name on the server.
        server_version: as the server writes it.
        tables: those of the publication that the stream delivers.
        slot: `None` where it is missing.
        standby: the server follows another one.
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
    standing_by: StandingBy | None,
) -> Start:
    """
    Return what a stream needs, once its slot is free or ``stopped`` is set.

    Args:
        config: of the stream.
        connection: to its database.
        stopped: ends the wait.
        standing_by: called when another process reads from the slot, whose end is
            then waited for; without it, that is an error.

    Raises:
        ReplicationError: something is missing; with what mends it.
        ImproperlyConfigured: the settings do not fit the database.
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
            if standing_by is None:
                raise
            standing_by(error)
        if stopped.wait(_STANDBY_POLL):
            break
        slot = slots.find(connection, config.slot_name)
        # Long after the first look, perhaps.
        require_published(config, connection)
    return Start(
        config=config,
        database=database,
        server_version=connection.info.parameter_status("server_version") or "",
        tables=_delivered(config, connection),
        slot=slot,
        standby=server.is_standby(connection),
    )


def _delivered(config: StreamConfig, connection: Connection) -> list[TableName]:
    subscriptions = Subscriptions(config.subscriptions)
    tables = publications.tables(connection, config.publications)
    lineages = ModelTables(config.database).lineages(tables)
    return [table for table in tables if subscriptions.cover(lineages[table])]


def unbroken_place(start: Start, replication: ReplicationConnection) -> SlotPlace:
    """
    Return where a durable slot is, if it goes on where it was read up to.

    Args:
        start: of the stream.
        replication: a connection that does not stream yet.

    Raises:
        SlotMissing, SlotBroken: changes are lost.
        SlotWaiting: the server is a standby that has no copy of the slot yet.
        NotPrepared: standbys are to keep copies and do not.
    """
    # Others may read from it meanwhile. What is looked at first is at most too old for
    # what is looked at later, never too new: slot, checkpoint, then the server.
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
    moved_on = checkpoint is not None and checkpoint.timeline not in {0, timeline}
    return SlotPlace(
        system=system,
        timeline=timeline,
        forks=replication.timeline_forks(timeline) if moved_on else {},
        statistics_since=statistics.since if statistics else None,
    )
