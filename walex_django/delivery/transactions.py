"""Database transactions around the receivers' work on a transaction of the stream."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from django.db import connections, reset_queries, transaction

from walex_django import log
from walex_django.conf.receivers_database import database
from walex_django.events import masking
from walex_django.pgoutput.lsn import Lsn
from walex_django.provisioning.checkpoints import CheckpointWriter
from walex_django.replication.errors import ConnectionLost
from walex_django.signals import Receiver, receiver_name

from .parking import describe, subject

logger = log.logger(__name__)

_RENEW_EVERY = 1.0  # seconds
_SAVE_EVERY = 10.0  # seconds between two writes of the checkpoint


class UnitOfWork:
    """
    The receivers' work on one transaction of the stream.

    This class opens no database transaction: each receiver manages its own.

    Args:
        checkpoint: The slot's checkpoint, or `None` if the slot is temporary.

    Attributes:
        wrap: A callable that wraps a receiver, or `None` if receivers are called
            directly.
    """

    def __init__(self, checkpoint: CheckpointWriter | None) -> None:
        self.wrap: Callable[[Receiver], Receiver] | None = None
        self._checkpoint = checkpoint
        self._renewed = self._saved = -math.inf
        self._save_due = False

    def begin(self) -> None:
        """Prepare for calls of receivers. May be called again before `commit`."""
        now = time.monotonic()
        if now - self._renewed > _RENEW_EVERY:
            self._renew(now)

    def require_intact(
        self, receiver: Receiver, arguments: dict[str, Any], error: BaseException
    ) -> None:
        """Raise if a failed call has undone the work of the receivers before it."""

    def commit(self, position: Lsn, is_transaction: bool) -> None:
        """
        Record that all receivers have returned or their failed calls are parked.

        Args:
            position: The position of the transaction's COMMIT.
            is_transaction: Whether it was a transaction, which the server counts in
                the slot's statistics, and not a message outside of one.
        """
        if self._checkpoint:
            self._checkpoint.done = position
            if is_transaction and not self._checkpoint.counted:
                self._checkpoint.counted = self._save_due = True
            if self._save_due:
                self._save_due = False
                self._checkpoint.save()

    def abandon(self) -> None:
        """Undo as much as possible: the transaction will be delivered again."""

    def _renew(self, now: float) -> None:
        # Django does this per request; doing it per event would cost too much.
        self._renewed = now
        reset_queries()
        renew_connections()
        if now - self._saved > _SAVE_EVERY:
            self._saved, self._save_due = now, True


ConnectionBreaks: TypeAlias = Counter[tuple[str, str]]
"""How often a call broke the connection, by receiver name and event id."""


class ConnectionBroken(Exception):
    """
    A receiver broke the database connection in each of its calls.

    Attributes:
        attempts: The number of calls.
    """

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        super().__init__(
            f"This call broke the transaction's connection. Attempts: {attempts}."
        )


class AtomicUnitOfWork(UnitOfWork):
    """
    One transaction of the receivers' database for all receivers and the checkpoint.

    Each call runs in a savepoint, so a failed call leaves no changes behind.

    Args:
        checkpoint: The slot's checkpoint.
        max_retries: The stream's ``MAX_RETRIES``.
        breaks: The counts of broken connections. A broken connection ends the session,
            so the caller keeps them across sessions.
    """

    def __init__(
        self,
        checkpoint: CheckpointWriter,
        *,
        max_retries: int,
        breaks: ConnectionBreaks,
    ) -> None:
        super().__init__(checkpoint)
        self.wrap = lambda receiver: partial(self._call, receiver)
        self._writer = checkpoint
        self._max_retries = max_retries
        self._breaks = breaks
        self._alias = database()
        self._transaction: transaction.Atomic | None = None
        self._entered = False  # whether the current call has reached the receiver
        self._is_sensitive = False  # whether an event has sensitive values

    def require_intact(
        self, receiver: Receiver, arguments: dict[str, Any], error: BaseException
    ) -> None:
        """
        Raise if a failure has broken the connection and thus ended the transaction.

        Raises:
            ConnectionLost: The connection or the transaction is unusable.
        """
        if (
            transaction.get_rollback(self._alias)
            or not connections[self._alias].is_usable()
        ):
            name = receiver_name(receiver)
            if self._entered:
                self._breaks[name, subject(arguments)] += 1
            mask = masking.of_call(arguments)
            # Errors of libpq have several lines and end with a full stop.
            reason = " ".join(mask(describe(error)).split()).rstrip(".")
            raise ConnectionLost(
                f"The database transaction ended during the receiver {name}: {reason}."
            ) from (None if mask.is_needed else error)

    def begin(self) -> None:  # noqa: D102
        if self._transaction is None:
            super().begin()
            atomic = transaction.atomic(using=self._alias, durable=True)
            atomic.__enter__()
            self._transaction = atomic

    def commit(self, position: Lsn, is_transaction: bool) -> None:
        """
        Commit the receivers' work together with the checkpoint.

        Raises:
            SlotInUse: Another listener has delivered the same transaction.
            django.db.Error: The commit failed.
        """
        if self._transaction is None:
            return
        self._writer.counted |= is_transaction
        self._writer.advance(position)
        connection = connections[self._alias]
        # A failing hook must neither keep the next one from running nor look like a
        # failed COMMIT.
        hooks: list[Any] = connection.run_on_commit
        hooks[:] = [
            (savepoints, partial(_run_hook, hook, position, self._is_sensitive), robust)
            for savepoints, hook, robust in hooks
        ]
        self._is_sensitive = False
        atomic, self._transaction = self._transaction, None
        atomic.__exit__(None, None, None)
        self._writer.done = position
        self._breaks.clear()

    def abandon(self) -> None:  # noqa: D102
        if self._transaction is not None:
            atomic, self._transaction = self._transaction, None
            # Closing rolls back too; a ROLLBACK might wait for a server that is away.
            connections[self._alias].close()
            atomic.__exit__(*sys.exc_info())

    def _call(self, receiver: Receiver, **arguments: Any) -> None:
        if self._breaks:
            breaks = self._breaks[receiver_name(receiver), subject(arguments)]
            if breaks > self._max_retries:
                raise ConnectionBroken(breaks)
        self._entered = False
        self._is_sensitive = self._is_sensitive or masking.is_needed(arguments)
        with transaction.atomic(using=self._alias):
            self._entered = True
            receiver(**arguments)
            # At COMMIT, a violation could not be attributed to this receiver.
            self._check_constraints()

    def _check_constraints(self) -> None:
        connection = connections[self._alias]
        if connection.vendor != "postgresql":
            connection.check_constraints()
            return
        # The same as Django's check_constraints(), in one round trip.
        with connection.cursor() as cursor:
            cursor.execute(
                "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED"
            )


def _run_hook(hook: Callable[[], object], position: Lsn, is_sensitive: bool) -> None:
    try:
        hook()
    except Exception as error:
        failed, extra = "An on_commit() callback failed", {"lsn": str(position)}
        if not is_sensitive:
            logger.exception("%s at %s", failed, position, extra=extra)
            return
        # The error may quote sensitive values, and the events that have them are gone.
        frames = "".join(traceback.format_tb(error.__traceback__))
        name = type(error).__qualname__
        logger.error(  # noqa: TRY400
            "%s at %s\n%s%s", failed, position, frames, name, extra=extra
        )


def renew_connections() -> None:
    """Close broken and expired connections; Django reopens them on demand."""
    for connection in connections.all(initialized_only=True):
        # Django's close_old_connections() would close one in a transaction, too.
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
