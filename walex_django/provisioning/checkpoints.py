"""
Checkpoints: stream positions stored in the receivers' database.

PostgreSQL stores a position in the slot. The checkpoint is a second one. It shows
whether the slot is still the one that was read and, with ``ATOMIC``, which transactions
are finished.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Greatest
from django.utils import timezone
from psycopg import sql

from walex_django import log
from walex_django.conf.own_tables import (
    SET_LOCK_TIMEOUT,
    STATEMENT_TIMEOUT,
    own_transaction,
)
from walex_django.conf.receivers_database import database, known_error
from walex_django.conf.stream import StreamConfig
from walex_django.models import Checkpoint
from walex_django.pgoutput.lsn import Lsn
from walex_django.replication.errors import (
    SlotBroken,
    SlotInUse,
    SlotMissing,
    SlotWaiting,
    TableLocked,
)
from walex_django.replication.slots import RECREATE, Slot, SlotStatistics

logger = log.logger(__name__)


def find(
    system: int, slot_name: str, *, timeout: float = STATEMENT_TIMEOUT
) -> Checkpoint | None:
    """
    Return the checkpoint of a slot, or `None` if the slot was never set up or read.

    Args:
        system: The server's system identifier.
        slot_name: The slot's name.
        timeout: The maximum duration of the query, in seconds.

    Raises:
        NotPrepared: If the table of checkpoints is missing or can't be read.
    """
    try:
        with own_transaction(database(), seconds=timeout):
            return _rows(system, slot_name).first()
    except DatabaseError as error:
        if known := known_error(error):
            raise known from error
        raise


def forget(system: int, slot_name: str) -> None:
    """
    Delete the checkpoint of a slot, if it exists.

    Args:
        system: The server's system identifier.
        slot_name: The slot's name.
    """
    # Not migrated yet, or not permitted.
    with suppress(DatabaseError), own_transaction(database()):
        _rows(system, slot_name).delete()


def note(config: StreamConfig, system: int, slot: Slot) -> None:
    """
    Store where a new slot starts.

    Args:
        config: The stream's configuration.
        system: The server's system identifier.
        slot: The slot, which has not been read yet.
    """
    alias = database()
    with own_transaction(alias):
        Checkpoint.objects.using(alias).update_or_create(
            system_identifier=system,
            slot_name=config.slot_name,
            defaults={
                "stream": config.name,
                "timeline": 0,
                "position": _before(slot.confirmed_lsn or Lsn(0)),
                "confirmed": slot.confirmed_lsn,
                "statistics_since": None,
                "session": None,
            },
        )


def follow(system: int, slot: Slot) -> None:
    """
    Store that a slot was advanced on purpose, past WAL without any changes.

    Args:
        system: The server's system identifier.
        slot: The slot, queried after it was advanced.
    """
    rows = _rows(system, slot.name).filter(confirmed__isnull=False)
    with own_transaction(rows.db):
        rows.update(confirmed=slot.confirmed_lsn)


def require_unbroken(
    checkpoint: Checkpoint,
    slot: Slot | None,
    *,
    statistics: SlotStatistics | None,
    timeline: int,
    log_end: Lsn,
    standby: bool = False,
) -> None:
    """
    Raise if a slot does not continue where the checkpoint ends.

    Args:
        checkpoint: The slot's checkpoint.
        slot: The current slot, or `None` if it does not exist. It must be queried
            before the checkpoint is read.
        statistics: The slot's statistics.
        timeline: The server's timeline.
        log_end: The end of the server's WAL.
        standby: Whether the server is a standby.

    Raises:
        SlotMissing: If the slot does not exist.
        SlotBroken: If the slot was recreated, another client has moved it, or the
            server was restored to an earlier state.
        SlotWaiting: If the server is a standby that has not replayed that much WAL yet.
    """
    name, position = checkpoint.slot_name, Lsn(checkpoint.position)
    if slot is None:
        raise SlotMissing(
            f'The slot "{name}" no longer exists. It was read up to {position}, and'
            " later changes cannot be delivered.",
            hint=f"To continue from the end of the WAL, run: {RECREATE}",
        )
    start = slot.confirmed_lsn or Lsn(0)
    if position > log_end and standby:
        raise SlotWaiting(
            f'The slot "{name}" was read up to {position}, but this standby has only'
            f" replayed its WAL up to {log_end}."
        )
    if position > log_end and timeline == checkpoint.timeline:
        raise SlotBroken(
            f'The slot "{name}" was read up to {position}, but the WAL of the server'
            f" ends at {log_end}: the server was restored to an earlier state.",
            hint=f"To continue from {start}, run: {RECREATE}",
        )
    moved = checkpoint.confirmed is not None and start > checkpoint.confirmed
    # The statistics of a new slot start at zero. A standby has its own statistics, so
    # they are only compared on the same timeline.
    is_new = (
        timeline == checkpoint.timeline
        and statistics is not None
        and checkpoint.statistics_since is not None
        and (statistics.since, statistics.transactions)
        <= (checkpoint.statistics_since, 0)
    )
    if moved or is_new:
        read = Lsn(checkpoint.confirmed or position)
        raise SlotBroken(
            f'The slot "{name}" was recreated, or moved by another client: it was read'
            f" up to {read} and now starts at {start}. The changes in between cannot be"
            " delivered.",
            hint=f"To continue from {start}, run: {RECREATE}",
        )


def _rows(system: int, slot_name: str) -> QuerySet[Checkpoint]:
    return Checkpoint.objects.using(database()).filter(
        system_identifier=system, slot_name=slot_name
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlace:
    """
    The server and the timeline on which a slot is read.

    Attributes:
        system: The server's system identifier.
        timeline: The server's timeline.
        forks: The position at which the server's history left each earlier timeline;
            empty if the checkpoint was written on the current timeline.
        statistics_since: See `SlotStatistics`.
    """

    system: int
    timeline: int
    forks: Mapping[int, Lsn]
    statistics_since: int | None


class CheckpointWriter:
    """
    Writes the checkpoint of the slot that this session reads.

    Args:
        config: The stream's configuration.
        place: The server and timeline of the slot.
        slot: The slot, queried after this session acquired it.

    Attributes:
        done: Position up to which all transactions are finished.
        counted: Whether the server's statistics include one of these transactions.

    Raises:
        SlotBroken: If the checkpoint is on a timeline that is not part of the server's
            history.
    """

    def __init__(self, config: StreamConfig, place: SlotPlace, slot: Slot) -> None:
        self._session = uuid.uuid4()
        self._alias = database()
        self._is_lock_logged = False
        self._timeline = place.timeline
        self._statistics_since = place.statistics_since
        self._start = slot.confirmed_lsn or Lsn(0)
        self.counted = False
        alias = self._alias
        with own_transaction(alias):
            rows = Checkpoint.objects.using(alias).filter(
                system_identifier=place.system, slot_name=config.slot_name
            )
            rows.get_or_create(
                system_identifier=place.system,
                slot_name=config.slot_name,
                defaults={
                    "stream": config.name,
                    "timeline": place.timeline,
                    "position": _before(self._start),
                },
            )
            # The previous reader may be about to commit; it has locked the row.
            row = rows.select_for_update().get()
            self.done = Lsn(row.position)
            if row.timeline not in {0, place.timeline}:
                self.done = self._shared(row, config, place)
            self._id = row.pk
            self._row = Checkpoint.objects.using(alias).filter(pk=row.pk)
            self._row.update(
                stream=config.name,
                timeline=place.timeline,
                position=self.done,
                confirmed=None,
                session=self._session,
                updated_at=timezone.now(),
            )

    def _shared(self, row: Checkpoint, config: StreamConfig, place: SlotPlace) -> Lsn:
        """Return the part of a checkpoint that is valid on the server's timeline."""
        if fork := place.forks.get(row.timeline):
            # This server never committed the transactions after the fork.
            return Lsn(min(row.position, fork - 1))
        if not config.atomic:
            return _before(self._start)
        raise SlotBroken(
            f'The slot "{row.slot_name}" was read on timeline {row.timeline}, which is'
            f" not part of the history of the server's timeline {place.timeline}: the"
            " server was restored to an earlier state.",
            hint=f"To continue from the slot's position, run: {RECREATE}",
        )

    def advance(self, position: Lsn) -> None:
        """
        Store that a transaction is finished, in the current database transaction.

        The caller sets `done` after that has been committed.

        Args:
            position: Position of the transaction's COMMIT.

        Raises:
            SlotInUse: If another listener has changed the checkpoint.
        """
        # On another timeline, the same position may belong to another transaction.
        unchanged = self._row.filter(position=self.done, timeline=self._timeline)
        if connections[self._alias].vendor == "postgresql":
            is_updated = self._update_with_timeout(position)
        else:
            is_updated = bool(self._update(unchanged, position))
        if not is_updated:
            raise SlotInUse("Another listener has taken over the slot.")

    def save(self) -> None:
        """
        Store `done` outside a database transaction.

        Connection errors are ignored: they are no reason to repeat the transactions.
        """
        try:
            with own_transaction(self._alias):
                self._update(self._row.filter(position__lt=self.done), self.done)
            self._is_lock_logged = False
        except (OperationalError, InterfaceError) as error:
            known = known_error(error)
            if isinstance(known, TableLocked) and not self._is_lock_logged:
                self._is_lock_logged = True
                logger.warning("The checkpoint could not be stored: %s", known)

    def close(self, confirmed: Lsn) -> None:
        """
        Store the slot's exact position.

        This method must be called while this session still holds the slot.

        Args:
            confirmed: The last position confirmed to the server, or 0 if none was.
        """
        # A connection that has been idle may be dead.
        connections[self._row.db].close()
        try:
            with own_transaction(self._alias):
                self._row.filter(session=self._session).update(
                    # Another session may have advanced further.
                    position=Greatest(F("position"), Value(int(self.done))),
                    confirmed=max(confirmed, self._start),
                    updated_at=timezone.now(),
                )
        except DatabaseError:
            logger.warning("The last checkpoint could not be stored", exc_info=True)

    def _update_with_timeout(self, position: Lsn) -> bool:
        """
        Update the checkpoint as `advance` does, in one round trip.

        The receivers' work has come to its end, so the timeout needs no reset.
        """
        assignments = [
            sql.SQL("position = {}").format(int(position)),
            sql.SQL("updated_at = clock_timestamp()"),
        ]
        if self.counted:
            since = sql.Literal(self._statistics_since)
            assignments.append(sql.SQL("statistics_since = {}").format(since))
        statement = sql.SQL(
            "{}; UPDATE {} SET {} WHERE id = {} AND position = {} AND timeline = {}"
        ).format(
            sql.SQL(SET_LOCK_TIMEOUT),
            sql.Identifier(Checkpoint._meta.db_table),
            sql.SQL(", ").join(assignments),
            *(self._id, int(self.done), self._timeline),
        )
        with connections[self._alias].cursor() as cursor:
            # Without parameters, several statements may be sent at once.
            cursor.execute(statement.as_string())
            cursor.nextset()
            return bool(cursor.rowcount)

    def _update(self, rows: QuerySet[Checkpoint], position: Lsn) -> int:
        fields: dict[str, Any] = {"position": position, "updated_at": timezone.now()}
        if self.counted:
            fields["statistics_since"] = self._statistics_since
        return rows.update(**fields)


def _before(start: Lsn) -> Lsn:
    # The first COMMIT that a slot delivers can be exactly at the slot's start.
    return Lsn(max(start - 1, 0))
