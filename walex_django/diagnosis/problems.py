"""What is wrong between a stream's settings and its server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import transaction

from walex_django.conf import reader
from walex_django.conf.reader import Problem
from walex_django.conf.receivers_database import database
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning import checkpoints
from walex_django.provisioning.requirements import require_one_database
from walex_django.replication import server, slots
from walex_django.replication.connection import (
    PAST_POOLER,
    Connection,
    connect,
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
from .published_tables import caught

UNREACHABLE = "W020"
POOLER = "W021"
LEFT_BEHIND = "W045"


def diagnose(config: StreamConfig) -> list[Problem]:
    """
    Return what is wrong, after connecting as a listener does.

    Args:
        config: of the stream.
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
        hint = known.hint or "Check that the server runs, and look at its log."
        return [Problem(UNREACHABLE, known.reason, hint)]
    except (ImproperlyConfigured, DatabaseError) as error:
        return [_no_answer(config, error)]
    if _NO_REPLICATION.isdisjoint(problem.id for problem in found):
        found += caught("W027", lambda: connect(parameters, replication=True).close())
    return found


# With these it cannot be had, and they tell why.
_NO_REPLICATION = {UNREACHABLE, "W022", "W023", "W024", "W026"}


def find_problems(config: StreamConfig, connection: Connection) -> list[Problem]:
    """
    Return what is wrong, as the catalogue has it.

    Args:
        config: of the stream.
        connection: to its database.

    Raises:
        psycopg.Error: the server did not tell.
    """
    facts = server.read(connection)
    if found := caught("W022", lambda: server.require_version(facts)):
        return found
    every = slots.every(connection)
    slot = next((each for each in every if each.name == config.slot_name), None)
    found = list(_server_problems(config, facts, slot, connection))
    try:
        found += caught("W028", lambda: require_one_database(config, connection))
        found += published_tables.problems(config, connection)
        found += _slot_problems(config, slot, connection)
    except DatabaseError as error:
        found.append(_no_answer(config, error))
    return found + list(_left_behind(facts, every))


def _no_answer(config: StreamConfig, error: Exception) -> Problem:
    said = " ".join(str(error).split()).rstrip(".")
    return Problem(
        UNREACHABLE,
        f"The database {config.database!r} does not answer: {said}.",
        "Check that it runs, and what DATABASES has of it.",
    )


def _server_problems(
    config: StreamConfig, facts: Server, slot: Slot | None, connection: Connection
) -> Iterator[Problem]:
    if connection.info.backend_pid != facts.backend_pid:
        yield Problem(
            POOLER,
            "What answers is not the server itself: its sessions may be shared, and"
            " what a listener sets for its own may not hold.",
            PAST_POOLER,
        )
    yield from caught("W023", lambda: server.require_wal_level(facts))
    yield from caught("W024", lambda: server.require_role(facts))
    if slot is None:
        yield from caught("W025", lambda: server.require_free_slot(facts))
    if slot is None or slot.active_pid is None:
        yield from caught("W026", lambda: server.require_free_sender(facts))
    if config.failover:
        yield from caught("W029", lambda: server.require_failover(connection))
    if config.durable_slot and facts.keep_size < 0:
        yield Problem(
            "I047",
            "max_slot_wal_keep_size is unlimited: while nobody reads the slot"
            f' "{config.slot_name}", the server keeps its log until the disk is full.',
            "If losing the slot is the lesser evil, run as superuser: ALTER SYSTEM SET"
            " max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
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
        yield Problem(_unusable(config, slot, connection), error.reason, error.hint)
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
        # One that was never there loses nothing.
        id = "W040" if slots.RECREATE not in error.hint else "W043"
        yield Problem(id, error.reason, error.hint)
    if slot and config.failover:
        yield from caught("W046", lambda: slots.require_copied(slot))


def _unusable(config: StreamConfig, slot: Slot | None, connection: Connection) -> str:
    assert slot is not None
    if slot.plugin != slots.PLUGIN or slot.database != connection.info.dbname:
        return "W041"
    return "W042" if config.durable_slot else "W044"


def _require_unbroken(
    config: StreamConfig, slot: Slot | None, connection: Connection
) -> None:
    """Raise unless the slot goes on where it was read up to, if that is known."""
    try:
        system, _ = server.identity(connection)
        # In a request all may be one transaction, which an error would break.
        with transaction.atomic(using=database()):
            checkpoint = checkpoints.find(system, config.slot_name)
    except (ReplicationError, DatabaseError):
        return  # what is wrong there, others tell
    if checkpoint:
        checkpoints.require_unbroken(
            checkpoint,
            slot,
            statistics=slots.statistics(connection, config.slot_name),
            timeline=server.timeline(connection),
            log_end=server.log_position(connection),
            standby=server.is_standby(connection),
        )


def _left_behind(facts: Server, every: Iterable[Slot]) -> Iterator[Problem]:
    configs, wrong = reader.read(getattr(settings, "WALEX", None))
    if wrong:
        return  # one of them may be of a stream that cannot be read
    known = {config.slot_name for config in configs.values()}
    for slot in every:
        if (
            (slot.plugin, slot.database) == (slots.PLUGIN, facts.database)
            and slot.active_pid is None
            and not (slot.temporary or slot.synced)
            and slot.name not in known
        ):
            size = "some" if slot.retained is None else format_size(slot.retained)
            yield Problem(
                LEFT_BEHIND,
                f'Nobody reads the slot "{slot.name}" and no stream in WALEX has it,'
                f" and the server keeps {size} of its log for"
                " it.",
                "If nobody will read it again, run: python manage.py walex_teardown"
                f" --slot {slot.name}",
            )
