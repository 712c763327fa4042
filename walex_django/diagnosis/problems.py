"""Problems of a stream's server, its slot, and the connection to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError

from walex_django.conf import reader
from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning import checkpoints
from walex_django.provisioning.requirements import require_one_database
from walex_django.replication import server, slots, synchronous
from walex_django.replication.connection import (
    PAST_POOLER,
    Connection,
    connect,
    sender_name,
    sql_error,
)
from walex_django.replication.errors import (
    CannotConnect,
    ReplicationError,
    SlotBroken,
    SlotInUse,
    SlotMissing,
    SlotUnusable,
    SlotWaiting,
)
from walex_django.replication.server import Server
from walex_django.replication.slots import Slot
from walex_django.units import format_size

from . import published_tables
from .published_tables import check_requirement

UNREACHABLE = "W020"
POOLER = "W021"
LEFT_BEHIND = "W045"

_CHECKPOINT_TIMEOUT = 1  # seconds to wait for the checkpoint


def diagnose(config: StreamConfig) -> list[Problem]:
    """
    Connect to a stream's server as a listener does, and return the problems found.

    Args:
        config: The stream's configuration.
    """
    try:
        parameters = config.connection_parameters()
        with connect(parameters) as connection:
            found = find_problems(config, connection)
    except CannotConnect as error:
        id = POOLER if error.hint == PAST_POOLER else UNREACHABLE
        return [Problem(id, error.reason, error.hint)]
    except psycopg.Error as error:
        known = sql_error(error)
        hint = known.hint or "Check that the server is running, and look at its log."
        return [Problem(UNREACHABLE, known.reason, hint)]
    except (ImproperlyConfigured, DatabaseError) as error:
        return [_cannot_query(config, error)]
    if _NO_REPLICATION.isdisjoint(problem.id for problem in found):
        found += check_requirement(
            "W027", lambda: connect(parameters, replication=True).close()
        )
    return found


# Each of these explains why no replication connection is possible.
_NO_REPLICATION = {UNREACHABLE, "W022", "W023", "W024", "W026"}


def find_problems(config: StreamConfig, connection: Connection) -> list[Problem]:
    """
    Return the problems that queries on an open connection find.

    Args:
        config: The stream's configuration.
        connection: A connection to the stream's database.

    Raises:
        psycopg.Error: A query failed.
    """
    facts = server.read(connection)
    if found := check_requirement("W022", lambda: server.require_version(facts)):
        return found
    all_slots = slots.every(connection)
    slot = next((slot for slot in all_slots if slot.name == config.slot_name), None)
    found = list(_server_problems(config, facts, slot, connection))
    try:
        found += check_requirement(
            "W028", lambda: require_one_database(config, connection)
        )
        found += published_tables.problems(config, connection)
        found += _slot_problems(config, slot, connection)
    except DatabaseError as error:
        found.append(_cannot_query(config, error))
    return found + list(_slots_left_behind(facts, all_slots))


def _cannot_query(config: StreamConfig, error: Exception) -> Problem:
    reason = " ".join(str(error).split()).rstrip(".")
    return Problem(
        UNREACHABLE,
        f"The database {config.database!r} cannot be queried: {reason}.",
        "Check that its server is running, and check its settings in DATABASES.",
    )


def _server_problems(
    config: StreamConfig, facts: Server, slot: Slot | None, connection: Connection
) -> Iterator[Problem]:
    if connection.info.backend_pid != facts.backend_pid:
        yield Problem(
            POOLER,
            "A pooler or proxy answers instead of the server itself: it may share"
            " sessions, and may not preserve a listener's session settings.",
            PAST_POOLER,
        )
    yield from check_requirement("W023", lambda: server.require_wal_level(facts))
    yield from check_requirement("W024", lambda: server.require_role(facts))
    if slot is None:
        yield from check_requirement("W025", lambda: server.require_free_slot(facts))
    if slot is None or slot.active_pid is None:
        yield from check_requirement("W026", lambda: server.require_free_sender(facts))
    yield from check_requirement(
        "W050",
        lambda: synchronous.require_asynchronous(
            facts.synchronous_names,
            str(
                config.connection_parameters().get("application_name")
                or sender_name(config.slot_name)
            ),
        ),
    )
    if config.durable_slot and facts.idle_slot_timeout:
        yield Problem(
            "I051",
            f"idle_replication_slot_timeout is {facts.idle_slot_timeout} s: if nothing"
            f' reads the slot "{config.slot_name}" for that long, the server'
            " invalidates it, and the changes that it has not delivered are lost.",
            "If listeners may be down for longer, run as superuser: ALTER SYSTEM SET"
            " idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        )
    if config.failover:
        yield from check_requirement(
            "W029", lambda: server.require_failover(connection)
        )
    if config.durable_slot and facts.keep_size < 0:
        yield Problem(
            "I047",
            "max_slot_wal_keep_size is unlimited: while nothing reads the slot"
            f' "{config.slot_name}", the server retains WAL until the disk is full.',
            "If you would rather lose the slot than fill the disk, run as superuser:"
            " ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT"
            " pg_reload_conf();",
        )


def _slot_problems(
    config: StreamConfig, slot: Slot | None, connection: Connection
) -> Iterator[Problem]:
    try:
        if slot:
            slots.check(
                slot, database=connection.info.dbname, durable=config.durable_slot
            )
    except (SlotInUse, SlotWaiting):
        return
    except SlotUnusable as error:
        yield Problem(_unusable_id(config, slot, connection), error.reason, error.hint)
        return
    if not config.durable_slot:
        return
    try:
        _require_unbroken(config, slot, connection)
        if slot is None:
            slots.require(connection, config.slot_name)
    except SlotBroken as error:
        yield Problem("W043", error.reason, error.hint)
    except SlotMissing as error:
        # A slot that never existed has lost nothing.
        id = "W040" if slots.RECREATE not in error.hint else "W043"
        yield Problem(id, error.reason, error.hint)
    if slot and config.failover:
        yield from check_requirement("W046", lambda: slots.require_copied(slot))


def _unusable_id(
    config: StreamConfig, slot: Slot | None, connection: Connection
) -> str:
    assert slot is not None
    if slot.plugin != slots.PLUGIN or slot.database != connection.info.dbname:
        return "W041"
    return "W042" if config.durable_slot else "W044"


def _require_unbroken(
    config: StreamConfig, slot: Slot | None, connection: Connection
) -> None:
    """Raise if the slot does not continue at the stream's checkpoint, if it has one."""
    try:
        system, _ = server.identity(connection)
        name, timeout = config.slot_name, _CHECKPOINT_TIMEOUT
        checkpoint = checkpoints.find(system, name, timeout=timeout)
    except (ReplicationError, DatabaseError):
        return  # other checks report why this fails
    if checkpoint:
        checkpoints.require_unbroken(
            checkpoint,
            slot,
            statistics=slots.statistics(connection, config.slot_name),
            timeline=server.timeline(connection),
            log_end=server.log_position(connection),
            standby=server.is_standby(connection),
        )


def _slots_left_behind(facts: Server, all_slots: Iterable[Slot]) -> Iterator[Problem]:
    configs, invalid = reader.read(getattr(settings, "WALEX", None))
    if invalid:
        return  # a slot may belong to a stream whose settings are invalid
    known = {config.slot_name for config in configs.values()}
    for slot in all_slots:
        if (
            (slot.plugin, slot.database) == (slots.PLUGIN, facts.database)
            and slot.active_pid is None
            and not (slot.temporary or slot.synced)
            and slot.name not in known
        ):
            wal = "WAL"
            if slot.retained is not None:
                wal = f"{format_size(slot.retained)} of WAL"
            yield Problem(
                LEFT_BEHIND,
                f'Nothing reads the slot "{slot.name}", no stream in WALEX uses it, and'
                f" the server retains {wal} for it.",
                "If the slot is no longer needed, run: python manage.py walex_teardown"
                f" --slot {slot.name}",
            )
