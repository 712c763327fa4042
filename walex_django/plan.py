"""What a database lacks of what a stream needs, as SQL."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from psycopg import sql

from . import checkpoints
from .catalogue import ModelTables
from .conf import get_configs
from .filters import ALL_TABLES, OWN_APP, Subscriptions
from .replication import publications, server, slots
from .replication.connection import Connection
from .replication.errors import (
    PublicationMissing,
    SlotBroken,
    SlotInUse,
    SlotMissing,
    SlotUnusable,
)
from .replication.publications import TableName
from .replication.slots import Slot
from .stream_config import StreamConfig


@dataclass(frozen=True, slots=True)
class Step:
    """
    One statement, and what it does in words.

    Attributes:
        replication: it is a command for replication connections.
        makes_slot: where it starts is to be remembered.
    """

    statement: sql.Composed
    what: str
    replication: bool = False
    makes_slot: bool = False


def setup_plan(
    config: StreamConfig, connection: Connection, *, recreate_slot: bool = False
) -> list[Step]:
    """
    Return the steps that make a stream's publications and slot, in order.

    The publication comes first: a slot reads the catalogue as it was at each position
    of the log, and cannot pass one where its publication was missing. What is there
    already is left as it is; tables are added, never taken away.

    Args:
        config: of the stream.
        connection: to its database.
        recreate_slot: make a slot anew that cannot be read on. One that somebody else
            has made again is kept.

    Raises:
        SlotUnusable: a slot of that name does not serve.
        SlotMissing, SlotBroken: changes are lost, and ``recreate_slot`` accepts that.
        ImproperlyConfigured: a table in ``SUBSCRIPTIONS`` does not exist.
    """
    steps = _publication_steps(config, connection)
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
        what = f'let standbys keep a copy of the slot "{slot.name}"'
        return [Step(slots.failover_statement(slot.name), what, replication=True)]
    return []


def _creation(config: StreamConfig) -> Step:
    name = config.slot_name
    statement = slots.create_statement(name, failover=config.failover)
    return Step(statement, f'create the slot "{name}"', makes_slot=True)


def _recreation(
    config: StreamConfig, connection: Connection, slot: Slot | None
) -> list[Step]:
    if slot and slot.active_pid is not None:
        raise SlotInUse(
            f'The slot "{slot.name}" is in use by the process {slot.active_pid} of'
            " PostgreSQL.",
            hint="Stop its listener first.",
        )
    try:
        _require_readable(config, connection, slot)
    except SlotBroken:
        # Somebody else has made it again, and it keeps the log since then.
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
    Raise unless a listener can go on with the slot.

    Returns whether there is one; there need not be, if there never was.
    """
    try:
        if slot:
            slots.check(slot, database=connection.info.dbname, durable=True)
    except SlotInUse:
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
        config: of the stream.
        connection: to its database.
        streams: all that are torn down now.
    """
    steps = []
    shared = {
        name
        for other in get_configs().values()
        if other.name not in {stream.name for stream in streams}
        and (other.database, other.url) == (config.database, config.url)
        for name in other.publications
    }
    slot = slots.find(connection, config.slot_name)
    if slot is not None:
        steps.append(
            Step(slots.drop_statement(slot.name), f'drop the slot "{slot.name}"')
        )
    there = publications.existing(connection, config.publications)
    return steps + [
        Step(publications.drop_statement(name), f'drop the publication "{name}"')
        for name in config.publications
        if name in there - shared
    ]


def _publication_steps(config: StreamConfig, connection: Connection) -> list[Step]:
    wanted = subscribed_tables(config, connection)
    if not wanted:
        raise ImproperlyConfigured(
            "There is no table to publish yet. Run: python manage.py migrate"
        )
    there = publications.existing(connection, config.publications)
    published = publications.covered(connection, config.publications)
    tables = [table for table in wanted if table not in published]
    steps = []
    for name in config.publications:
        # The first one takes what none of them has.
        added = tables if name == config.publications[0] else []
        if name not in there:
            statement = publications.create_statement(name, added)
            steps.append(Step(statement, f'create the publication "{name}"'))
        elif added:
            listed = ", ".join(map(str, added))
            statement = publications.add_statement(name, added)
            steps.append(Step(statement, f'add to the publication "{name}": {listed}'))
    return steps


def require_published(config: StreamConfig, connection: Connection) -> None:
    """
    Raise unless all that a stream's ``SUBSCRIPTIONS`` name is published.

    With `ALL_TABLES` the stream takes what the publication has.

    Raises:
        PublicationMissing: there is none, or it lacks a table.
        ImproperlyConfigured: a table does not exist.
    """
    publications.require(connection, config.publications)
    if ALL_TABLES in config.subscriptions:
        return
    published = publications.covered(connection, config.publications)
    wanted = subscribed_tables(config, connection)
    lacking = [str(table) for table in wanted if table not in published]
    if lacking:
        names = ", ".join(f'"{name}"' for name in config.publications)
        raise PublicationMissing(
            f"SUBSCRIPTIONS has what the publication {names} lacks:"
            f" {', '.join(lacking)}.",
            hint="Run: python manage.py walex_setup",
        )


def subscribed_tables(config: StreamConfig, connection: Connection) -> list[TableName]:
    """
    Return the tables that a stream's ``SUBSCRIPTIONS`` name, sorted.

    `ALL_TABLES` are those of the models that migrate to the stream's database.

    Raises:
        ImproperlyConfigured: one of them does not exist.
    """
    subscriptions = Subscriptions(config.subscriptions)
    alias = config.database
    model_tables = ModelTables(alias)
    models = dict(model_tables.items())
    tables = {
        table
        for table, model in models.items()
        if model._meta.app_label != OWN_APP
        and subscriptions.covers_model(model)
        and (model in subscriptions.models or router.allow_migrate_model(alias, model))
    }
    absent = subscriptions.models - set(models.values())
    for model in absent:
        if kind := model_tables.kind(model):
            raise ImproperlyConfigured(
                f"{model._meta.label} is {kind}: PostgreSQL does not log its changes."
                " Take it out of SUBSCRIPTIONS."
            )
    if absent:
        listed = ", ".join(sorted(model._meta.label for model in absent))
        raise ImproperlyConfigured(
            f"The database {alias!r} has no table yet of {listed}."
            f" Run: python manage.py migrate --database {alias}"
        )
    return sorted(tables | _existing_tables(connection, subscriptions))


_TABLES = """
SELECT namespace.nspname, class.relname
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p') AND class.relpersistence = 'p'
AND (
    namespace.nspname = ANY(%s) AND NOT class.relispartition
    OR (namespace.nspname, class.relname) IN (
        SELECT * FROM unnest(%s::text[], %s::text[]))
)
"""


def _existing_tables(
    connection: Connection, subscriptions: Subscriptions
) -> set[TableName]:
    named = subscriptions.tables
    rows = connection.execute(
        _TABLES,
        [
            list(subscriptions.schemas),
            [table.schema for table in named],
            [table.name for table in named],
        ],
    )
    found = {TableName(*row) for row in rows}
    for table in sorted(named - found):
        raise _unknown(str(table), table.schema)
    for schema in sorted(subscriptions.schemas - {table.schema for table in found}):
        raise _unknown(f"{schema}.*", schema)
    return found


def _unknown(entry: str, owner: str) -> ImproperlyConfigured:
    labels = [app.label for app in apps.get_app_configs()]
    close = difflib.get_close_matches(owner, labels, n=1)
    meant = f" Did you mean the app {close[0]!r}?" if close else ""
    return ImproperlyConfigured(
        f"SUBSCRIPTIONS has {entry!r}, and there is neither an app {owner!r} nor such a"
        f" table.{meant} If a migration makes it, run: python manage.py migrate"
    )
