"""
How far the receivers' work is, kept in their database.

PostgreSQL keeps a position in the slot. A second one, here, tells whether the slot is
still the one that was read, and with ``ATOMIC`` which transactions are done.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.db import Error as DatabaseError
from django.db import (
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from walex_django import log
from walex_django.conf.receivers_database import database, known_error
from walex_django.conf.stream import StreamConfig
from walex_django.models import Checkpoint
from walex_django.pgoutput.lsn import Lsn
from walex_django.replication.errors import (
    SlotBroken,
    SlotInUse,
    SlotMissing,
    SlotWaiting,
)
from walex_django.replication.slots import RECREATE, Slot, SlotStatistics

logger = log.logger(__name__)


def find(system: int, slot_name: str) -> Checkpoint | None:
    """
    Return the checkpoint of a slot, if it was ever set up or read.

    Args:
        system: the server's system identifier.
        slot_name: of the slot.

    Raises:
        NotPrepared: the table of checkpoints is missing, or not to be read by us.
    """
    try:
        return _rows(system, slot_name).first()
    except DatabaseError as error:
        if known := known_error(error):
            raise known from error
        raise


def forget(system: int, slot_name: str) -> None:
    """Delete the checkpoint of a slot, if there is one. Args: as of `find`."""
    with suppress(DatabaseError):  # not migrated yet, or not allowed to
        _rows(system, slot_name).delete()


def note(config: StreamConfig, system: int, slot: Slot) -> None:
    """
    Remember where a new slot starts.

    Args:
        config: of the stream.
        system: the server's system identifier.
        slot: one that nobody has read.
    """
    Checkpoint.objects.using(database()).update_or_create(
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
    Raise unless a slot goes on where it was read up to.

    Args:
        checkpoint: of the slot.
        slot: as it is now, `None` if it is gone. Look before the checkpoint is read.
        statistics: of the slot.
        timeline: the server's.
        log_end: the server's.
        standby: the server follows another one.

    Raises:
        SlotMissing: it is gone.
        SlotBroken: it is another one of the same name, somebody else has moved it, or
            the server was set back.
        SlotWaiting: a standby has not read that much of its log yet.
    """
    name, position = checkpoint.slot_name, Lsn(checkpoint.position)
    if slot is None:
        raise SlotMissing(
            f'The slot "{name}" is gone, and was read up to {position}: what was'
            " written since cannot be delivered.",
            hint=f"To go on from the end of the log, run: {RECREATE}",
        )
    start = slot.confirmed_lsn or Lsn(0)
    if position > log_end and standby:
        raise SlotWaiting(
            f'The slot "{name}" was read up to {position}, and this standby has come to'
            f" {log_end}."
        )
    if position > log_end and timeline == checkpoint.timeline:
        raise SlotBroken(
            f'The slot "{name}" was read up to {position}, and the log of the server'
            f" ends at {log_end}: the server was set back.",
            hint=f"To go on from {start}, run: {RECREATE}",
        )
    moved = checkpoint.confirmed is not None and start > checkpoint.confirmed
    # A slot is made with its account at zero, and on a standby that has one of its own.
    fresh = (
        timeline == checkpoint.timeline
        and statistics is not None
        and checkpoint.statistics_since is not None
        and (statistics.since, statistics.transactions)
        <= (checkpoint.statistics_since, 0)
    )
    if moved or fresh:
        read = Lsn(checkpoint.confirmed or position)
        raise SlotBroken(
            f'The slot "{name}" was made again or moved by somebody else: it was read'
            f" up to {read} and starts at {start}. What was written between cannot be"
            " delivered.",
            hint=f"To go on from {start}, run: {RECREATE}",
        )


def _rows(system: int, slot_name: str) -> QuerySet[Checkpoint]:
    return Checkpoint.objects.using(database()).filter(
        system_identifier=system, slot_name=slot_name
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlace:
    """
    Where a slot is, on which server.

    Attributes:
        system: the server's system identifier.
        timeline: the server's.
        forks: where that left each timeline that it stems from; empty if it is the
            one that the checkpoint was written on.
        statistics_since: see `SlotStatistics`.
    """

    system: int
    timeline: int
    forks: Mapping[int, Lsn]
    statistics_since: int | None


class CheckpointWriter:
    """
    Keeps the checkpoint of a slot that this session reads.

    Args:
        config: of the stream.
        place: of the slot.
        slot: as it is now that nobody else can move it.

    Attributes:
        done: transactions that committed up to here are done.
        counted: one of these the server has counted.

    Raises:
        SlotBroken: what is done was done on a timeline that the server does not know.
    """

    def __init__(self, config: StreamConfig, place: SlotPlace, slot: Slot) -> None:
        self._session = uuid.uuid4()
        self._timeline = place.timeline
        self._statistics_since = place.statistics_since
        self._start = slot.confirmed_lsn or Lsn(0)
        self.counted = False
        alias = database()
        with transaction.atomic(using=alias):
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
            # Who had the slot may be about to commit: he has locked the row.
            row = rows.select_for_update().get()
            self.done = Lsn(row.position)
            if row.timeline not in {0, place.timeline}:
                self.done = self._shared(row, config, place)
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
        """Return up to where a checkpoint is true on a timeline that came later."""
        if fork := place.forks.get(row.timeline):
            # What was done behind the fork, this server has never committed.
            return Lsn(min(row.position, fork - 1))
        if not config.atomic:
            return _before(self._start)
        raise SlotBroken(
            f'The slot "{row.slot_name}" was read on timeline {row.timeline}, of which'
            f" the server's timeline {place.timeline} knows nothing: it was restored to"
            " a time before.",
            hint=f"To go on from where the slot is, run: {RECREATE}",
        )

    def advance(self, position: Lsn) -> None:
        """
        Store that a transaction is done, in the database transaction at hand.

        Set `done` when that has been committed.

        Args:
            position: of its COMMIT.

        Raises:
            SlotInUse: another listener did it meanwhile.
        """
        # On another timeline its position may be that of another transaction.
        mine = self._row.filter(position=self.done, timeline=self._timeline)
        if not self._update(mine, position):
            raise SlotInUse("Another listener has taken the slot over.")

    def save(self) -> None:
        """
        Store what is done, outside of a database transaction.

        A database that is away just then is no reason to do it again.
        """
        with suppress(OperationalError, InterfaceError):
            self._update(self._row.filter(position__lt=self.done), self.done)

    def close(self, confirmed: Lsn) -> None:
        """
        Store where the slot is, exactly. Call it while the slot is still ours.

        Args:
            confirmed: what the server was told last; 0 if nothing.
        """
        # One that has been idle may be dead, and nobody has noticed.
        connections[self._row.db].close()
        try:
            self._row.filter(session=self._session).update(
                # Another session may have come further.
                position=Greatest(F("position"), Value(int(self.done))),
                confirmed=max(confirmed, self._start),
                updated_at=timezone.now(),
            )
        except DatabaseError:
            logger.warning("The last checkpoint could not be stored", exc_info=True)

    def _update(self, rows: QuerySet[Checkpoint], position: Lsn) -> int:
        fields: dict[str, Any] = {"position": position, "updated_at": timezone.now()}
        if self.counted:
            fields["statistics_since"] = self._statistics_since
        return rows.update(**fields)


def _before(start: Lsn) -> Lsn:
    # The first COMMIT that a slot delivers can lie exactly where the slot starts.
    return Lsn(max(start - 1, 0))
