"""The statements that set up and tear down a stream's slot and publications."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured
from psycopg import sql

from walex_django.conf.configs import get_configs
from walex_django.conf.stream import StreamConfig
from walex_django.replication import identities, publications, server, slots
from walex_django.replication.connection import Connection
from walex_django.replication.errors import (
    SlotBroken,
    SlotInUse,
    SlotMissing,
    SlotUnusable,
)
from walex_django.replication.publications import TableName
from walex_django.replication.slots import Slot

from . import checkpoints, replica_identity, unwanted_tables
from .named_tables import subscribed_tables


@dataclass(frozen=True, slots=True)
class Step:
    """
    A statement of a plan.

    Attributes:
        statement: The SQL.
        what: A description of what the statement does.
        replication: Whether it is a command for a replication connection.
        makes_slot: Whether it creates a slot. The position at which the slot starts is
            then stored in a checkpoint.
        publishes: The tables that it adds to a publication.
        creates: The publication that it creates, if any.
    """

    statement: sql.Composed
    what: str
    replication: bool = False
    makes_slot: bool = False
    publishes: Collection[TableName] = ()
    creates: str = ""


def setup_plan(
    config: StreamConfig,
    connection: Connection,
    *,
    prune: bool = False,
    recreate_slot: bool = False,
) -> list[Step]:
    """
    Return the steps that create a stream's publications and slot, in order.

    The publication is created before the slot: decoding uses the catalog as it was at
    each position of the WAL, and cannot get past a change that was made while the
    publication was missing. Existing objects are left as they are, except that tables
    are added to publications and, with ``prune``, removed.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.
        prune: Whether to remove the tables that no stream subscribes to.
        recreate_slot: Whether to recreate a slot that can't be continued. A slot that
            another client has recreated is kept.

    Raises:
        SlotUnusable: If a slot of that name exists and can't be used.
        SlotMissing: If the slot was dropped, unless ``recreate_slot`` accepts the loss.
        SlotBroken: If the slot skips changes, unless ``recreate_slot`` accepts the
            loss.
        ImproperlyConfigured: If a table or an index that the settings name does not
            exist.
    """
    # UPDATE fails on a published table that has no replica identity yet.
    steps = _identity_steps(config, connection) + _publication_steps(config, connection)
    if prune:
        steps += _prune_steps(config, connection)
    slot = slots.find(connection, config.slot_name)
    if config.durable_slot:
        return steps + _slot_steps(config, connection, slot, recreate=recreate_slot)
    if slot is not None and slot.active_pid is None:
        slots.check(slot, database=connection.info.dbname, durable=False)
    return steps


def _slot_steps(
    config: StreamConfig, connection: Connection, slot: Slot | None, *, recreate: bool
) -> list[Step]:
    if config.failover:
        server.require_failover(connection)
    if recreate:
        return _recreation(config, connection, slot)
    if not _require_readable(config, connection, slot):
        return [_creation(config)]
    if slot and config.failover and not slot.failover:
        what = f'synchronize the slot "{slot.name}" to standbys'
        return [Step(slots.failover_statement(slot.name), what, replication=True)]
    return []


def _creation(config: StreamConfig) -> Step:
    name = config.slot_name
    statement = slots.create_statement(name, failover=config.failover)
    return Step(statement, f'create the slot "{name}"', makes_slot=True)


def _recreation(
    config: StreamConfig, connection: Connection, slot: Slot | None
) -> list[Step]:
    if slot and slot.active_pid is not None and not slot.is_being_created:
        raise SlotInUse(
            f'The slot "{slot.name}" is in use by the process {slot.active_pid} of'
            " PostgreSQL.",
            hint="Stop its listener first.",
        )
    try:
        _require_readable(config, connection, slot)
    except SlotBroken:
        # Another client has recreated the slot, and it retains the WAL since then.
        return []
    except (SlotMissing, SlotUnusable):
        if slot and not slot.lost:
            raise
    if slot is None:
        return [_creation(config)]
    drop = Step(slots.drop_statement(slot.name), f'drop the slot "{slot.name}"')
    return [drop, _creation(config)]


def _require_readable(
    config: StreamConfig, connection: Connection, slot: Slot | None
) -> bool:
    """
    Raise if a listener can't continue with the slot.

    Returns:
        Whether the slot exists. It may be missing if it was never read.
    """
    try:
        if slot:
            slots.check(slot, database=connection.info.dbname, durable=True)
    except SlotInUse:
        if slot and slot.is_being_created:
            raise
        return True
    system, _ = server.identity(connection)
    if checkpoint := checkpoints.find(system, config.slot_name):
        checkpoints.require_unbroken(
            checkpoint,
            slot,
            statistics=slots.statistics(connection, config.slot_name),
            timeline=server.timeline(connection),
            log_end=server.log_position(connection),
        )
    return slot is not None


def teardown_plan(
    config: StreamConfig, connection: Connection, *, streams: Collection[StreamConfig]
) -> list[Step]:
    """
    Return the steps that drop a stream's slot and publications, in order.

    Publications that other streams read are kept.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.
        streams: All streams that are torn down together.
    """
    steps = []
    shared = {
        name
        for other in get_configs().values()
        if other.name not in {stream.name for stream in streams}
        and other.may_share_database(config)
        for name in other.publications
    }
    slot = slots.find(connection, config.slot_name)
    if slot is not None:
        steps.append(
            Step(slots.drop_statement(slot.name), f'drop the slot "{slot.name}"')
        )
    existing = publications.existing(connection, config.publications)
    return steps + [
        Step(publications.drop_statement(name), f'drop the publication "{name}"')
        for name in config.publications
        if name in existing - shared
    ]


def slot_plan(name: str, connection: Connection) -> list[Step]:
    """
    Return the step that drops a slot of no stream, if the slot exists.

    Args:
        name: The slot's name.
        connection: A connection to its database.

    Raises:
        SlotInUse: If a client is reading from the slot.
    """
    slot = slots.find(connection, name)
    if slot is None or slot.database not in {None, connection.info.dbname}:
        return []
    if slot.active_pid is not None:
        raise SlotInUse(
            f'The slot "{name}" is in use by the process {slot.active_pid} of'
            " PostgreSQL.",
            hint="Stop its reader first.",
        )
    return [Step(slots.drop_statement(name), f'drop the slot "{name}"')]


def _publication_steps(config: StreamConfig, connection: Connection) -> list[Step]:
    wanted = subscribed_tables(config, connection)
    if not wanted:
        raise ImproperlyConfigured(
            "There are no tables to publish yet. Run: python manage.py migrate"
        )
    existing = publications.existing(connection, config.publications)
    published = publications.covered(connection, config.publications)
    missing = [table for table in wanted if table not in published]
    steps = []
    for name in config.publications:
        # Missing tables are added to the first publication.
        added = missing if name == config.publications[0] else []
        if name not in existing:
            statement = publications.create_statement(name, added)
            what = f'create the publication "{name}"'
            steps.append(Step(statement, what, publishes=added, creates=name))
        elif added:
            names = ", ".join(map(str, added))
            statement = publications.add_statement(name, added)
            what = f'add to the publication "{name}": {names}'
            steps.append(Step(statement, what, publishes=added))
    return steps


def _identity_steps(config: StreamConfig, connection: Connection) -> list[Step]:
    return [
        Step(
            identities.statement(difference.part, difference.identity),
            f"set the replica identity of {difference.part} to {difference.identity}",
        )
        for difference in replica_identity.differences(config, connection)
    ]


def _prune_steps(config: StreamConfig, connection: Connection) -> list[Step]:
    return [
        Step(
            publications.remove_statement(name, tables),
            f'remove from the publication "{name}": {", ".join(map(str, tables))}',
        )
        for name, tables in unwanted_tables.find(config, connection).items()
    ]
