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
from datetime import datetime
from typing import Any

from django.db import InterfaceError, OperationalError, ProgrammingError, router
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Greatest
from django.utils import timezone
from psycopg import Error as PsycopgError
from psycopg.errors import InsufficientPrivilege

from .conf import StreamConfig
from .models import Checkpoint
from .pgoutput.lsn import Lsn
from .replication.errors import NotPrepared, SlotBroken, SlotInUse, SlotMissing
from .replication.slots import RECREATE, Slot, SlotStatistics


def database() -> str:
    """Return the alias of the database that has the checkpoints."""
    return router.db_for_write(Checkpoint)


def find(system: int, slot_name: str) -> Checkpoint | None:
    """
    Return the checkpoint of a slot; `None` also to a role that may not read it.

    Args:
        system: the server's system identifier.
        slot_name: of the slot.

    Raises:
        NotPrepared: the table of checkpoints is missing.
    """
    try:
        return _rows(system, slot_name).first()
    except ProgrammingError as error:
        cause = error.__cause__
        if isinstance(cause, InsufficientPrivilege):
            return None
        said = cause.diag.message_primary if isinstance(cause, PsycopgError) else error
        raise NotPrepared(
            f"The database {database()!r} lacks a table of walex_django: {said}.",
            hint=f"Run: python manage.py migrate walex_django --database {database()}",
        ) from error


def forget(system: int, slot_name: str) -> None:
    """Delete the checkpoint of a slot, if there is one. Args: as of `find`."""
    with suppress(ProgrammingError):  # not migrated yet, or not allowed to
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
) -> None:
    """
    Raise unless a slot goes on where it was read up to.

    Args:
        checkpoint: of the slot.
        slot: as it is now, `None` if it is gone. Look before the checkpoint is read.
        statistics: of the slot.
        timeline: the server's.
        log_end: the server's.

    Raises:
        SlotMissing: it is gone.
        SlotBroken: it is another one of the same name, somebody else has moved it, or
            the server was set back.
    """
    name, position = checkpoint.slot_name, Lsn(checkpoint.position)
    if slot is None:
        raise SlotMissing(
            f'The slot "{name}" is gone, and was read up to {position}: what was'
            " written since cannot be delivered.",
            hint=f"To go on from the end of the log, run: {RECREATE}",
        )
    start = slot.confirmed_lsn or Lsn(0)
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
        statistics_since: when the server began to count the slot's transactions.
    """

    system: int
    timeline: int
    forks: Mapping[int, Lsn]
    statistics_since: datetime | None


class CheckpointWriter:
    """
    Keeps the checkpoint of a slot that this session reads.

    Args:
        config: of the stream.
        place: of the slot.
        slot: as it is now that nobody else can move it.

    Attributes:
        done: transactions that committed up to here are done.

    Raises:
        SlotBroken: what is done was done on a timeline that the server does not know.
    """

    def __init__(self, config: StreamConfig, place: SlotPlace, slot: Slot) -> None:
        self._session = uuid.uuid4()
        self._statistics_since = place.statistics_since
        self._start = slot.confirmed_lsn or Lsn(0)
        alias = database()
        row, _ = Checkpoint.objects.using(alias).get_or_create(
            system_identifier=place.system,
            slot_name=config.slot_name,
            defaults={
                "stream": config.name,
                "timeline": place.timeline,
                "position": _before(self._start),
            },
        )
        self._row = Checkpoint.objects.using(alias).filter(pk=row.pk)
        if config.atomic and row.timeline not in {0, place.timeline}:
            as_found = self._row.filter(timeline=row.timeline, position=row.position)
            as_found.update(position=_shared(row, place), timeline=place.timeline)
        self._row.update(
            stream=config.name,
            timeline=place.timeline,
            confirmed=None,
            session=self._session,
            updated_at=timezone.now(),
        )
        # Not before: who had the slot may be about to commit, and has locked the row.
        self.done = Lsn(self._row.values_list("position", flat=True).get())

    def advance(self, position: Lsn) -> None:
        """
        Store that a transaction is done, in the database transaction at hand.

        Set `done` when that has been committed.

        Args:
            position: of its COMMIT.

        Raises:
            SlotInUse: another listener did it meanwhile.
        """
        if not self._update(self._row.filter(position=self.done), position):
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
        self._row.filter(session=self._session).update(
            # Another session may have come further.
            position=Greatest(F("position"), Value(int(self.done))),
            confirmed=max(confirmed, self._start),
            updated_at=timezone.now(),
        )

    def _update(self, rows: QuerySet[Checkpoint], position: Lsn) -> int:
        fields: dict[str, Any] = {
            "position": position,
            "statistics_since": self._statistics_since,
            "updated_at": timezone.now(),
        }
        return rows.update(**fields)


def _before(start: Lsn) -> Lsn:
    # The first COMMIT that a slot delivers can lie exactly where the slot starts.
    return Lsn(max(start - 1, 0))


def _shared(checkpoint: Checkpoint, place: SlotPlace) -> Lsn:
    """Return up to where a checkpoint is true on a timeline that came later."""
    fork = place.forks.get(checkpoint.timeline)
    if fork is None:
        raise SlotBroken(
            f'The slot "{checkpoint.slot_name}" was read on timeline'
            f" {checkpoint.timeline}, of which the server's timeline {place.timeline}"
            " knows nothing: it was restored to a time before.",
            hint=f"To go on from where the slot is, run: {RECREATE}",
        )
    # What was done behind the fork, this server has never committed.
    return Lsn(min(checkpoint.position, fork - 1))
