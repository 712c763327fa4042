"""The receivers' work on one transaction of the source, and the end of it."""

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

_TIDY_EVERY = 1.0  # seconds
_SAVE_EVERY = 10.0  # seconds between two times that a checkpoint is stored


class UnitOfWork:
    """
    What surrounds the calls of receivers: here nothing, each does its own.

    Args:
        checkpoint: of the slot; `None` where that is a temporary one.

    Attributes:
        wrap: returns what calls a receiver; `None` where nothing does.
    """

    def __init__(self, checkpoint: CheckpointWriter | None) -> None:
        self.wrap: Callable[[Receiver], Receiver] | None = None
        self._checkpoint = checkpoint
        self._tidied = self._saved = -math.inf
        self._save = False

    def begin(self) -> None:
        """Receivers are about to be called; their work may have begun before."""
        now = time.monotonic()
        if now - self._tidied > _TIDY_EVERY:
            self._tidy(now)

    def require_intact(
        self, receiver: Receiver, arguments: dict[str, Any], error: BaseException
    ) -> None:
        """Raise if the failure of a call has undone what others did before it."""

    def commit(self, position: Lsn, counted: bool) -> None:
        """
        All receivers have returned, or their calls are parked.

        Args:
            position: of the transaction's COMMIT.
            counted: it was a transaction, of which the server keeps account.
        """
        if self._checkpoint:
            self._checkpoint.done = position
            if counted and not self._checkpoint.counted:
                self._checkpoint.counted = self._save = True
            if self._save:
                self._save = False
                self._checkpoint.save()

    def abandon(self) -> None:
        """Undo what can be undone: the transaction will come again."""

    def _tidy(self, now: float) -> None:
        """Do for Django's connections what a request does, but not for each event."""
        self._tidied = now
        reset_queries()
        renew_connections()
        if now - self._saved > _SAVE_EVERY:
            self._saved, self._save = now, True


Breaks: TypeAlias = Counter[tuple[str, str]]
"""How often a receiver broke the connection, by its name and what it was called for."""


class ConnectionBroken(Exception):
    """
    A receiver breaks the connection each time that it is called.

    Attributes:
        attempts: how often it was called.
    """

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        super().__init__(
            f"The transaction's connection was broken {attempts} times in this call."
        )


class AtomicUnit(UnitOfWork):
    """
    All receivers and the checkpoint in one transaction of the receivers' database.

    Each call has a savepoint, so that one that fails leaves nothing behind.

    Args:
        checkpoint: of the slot.
        max_retries: of the stream.
        breaks: outlives the session, which a broken connection ends.
    """

    def __init__(
        self, checkpoint: CheckpointWriter, *, max_retries: int, breaks: Breaks
    ) -> None:
        super().__init__(checkpoint)
        self.wrap = lambda receiver: partial(self._call, receiver)
        self._writer = checkpoint
        self._max_retries = max_retries
        self._breaks = breaks
        self._alias = database()
        self._transaction: transaction.Atomic | None = None
        self._entered = False  # the receiver that is called
        self._hides = False  # an event of the transaction has sensitive values

    def require_intact(
        self, receiver: Receiver, arguments: dict[str, Any], error: BaseException
    ) -> None:
        """
        Raise if a failure has broken the connection, and with it the transaction.

        Raises:
            ConnectionLost: it has.
        """
        if (
            transaction.get_rollback(self._alias)
            or not connections[self._alias].is_usable()
        ):
            name = receiver_name(receiver)
            if self._entered:
                self._breaks[name, subject(arguments)] += 1
            mask = masking.of_call(arguments)
            raise ConnectionLost(
                f"The database transaction ended in the receiver {name}:"
                f" {mask(describe(error))}."
            ) from (None if mask.is_needed else error)

    def begin(self) -> None:  # noqa: D102
        if self._transaction is None:
            super().begin()
            begun = transaction.atomic(using=self._alias, durable=True)
            begun.__enter__()
            self._transaction = begun

    def commit(self, position: Lsn, counted: bool) -> None:
        """
        Commit the receivers' work with the checkpoint.

        Raises:
            SlotInUse: another listener did the same transaction.
            django.db.Error: the database did not take it; nothing of it is there.
        """
        if self._transaction is None:
            return
        self._writer.counted |= counted
        self._writer.advance(position)
        connection = connections[self._alias]
        # One that fails is not to keep the next from running, or to look like a COMMIT
        # that failed.
        hooks: list[Any] = connection.run_on_commit
        hooks[:] = [
            (savepoints, partial(_run_hook, hook, position, self._hides), robust)
            for savepoints, hook, robust in hooks
        ]
        self._hides = False
        ended, self._transaction = self._transaction, None
        ended.__exit__(None, None, None)
        self._writer.done = position
        self._breaks.clear()

    def abandon(self) -> None:  # noqa: D102
        if self._transaction is not None:
            ended, self._transaction = self._transaction, None
            # The server rolls back by itself; asked to, it might not answer.
            connections[self._alias].close()
            ended.__exit__(*sys.exc_info())

    def _call(self, receiver: Receiver, **arguments: Any) -> None:
        if self._breaks:
            breaks = self._breaks[receiver_name(receiver), subject(arguments)]
            if breaks > self._max_retries:
                raise ConnectionBroken(breaks)
        self._entered = False
        self._hides = self._hides or masking.is_needed(arguments)
        with transaction.atomic(using=self._alias):
            self._entered = True
            receiver(**arguments)
            # What is checked at COMMIT only would be nobody's failure.
            self._check_constraints()

    def _check_constraints(self) -> None:
        connection = connections[self._alias]
        if connection.vendor != "postgresql":
            connection.check_constraints()
            return
        # As Django does it, in one round trip.
        with connection.cursor() as cursor:
            cursor.execute(
                "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED"
            )


def _run_hook(hook: Callable[[], object], position: Lsn, hides: bool) -> None:
    try:
        hook()
    except Exception as error:
        failed, extra = "A function given to on_commit() failed", {"lsn": str(position)}
        if not hides:
            logger.exception("%s at %s", failed, position, extra=extra)
            return
        # Which values of the transaction it quotes, nobody knows any more.
        frames = "".join(traceback.format_tb(error.__traceback__))
        name = type(error).__qualname__
        logger.error(  # noqa: TRY400
            "%s at %s\n%s%s", failed, position, frames, name, extra=extra
        )


def renew_connections() -> None:
    """Close connections that have broken or are too old: the next use opens others."""
    for connection in connections.all(initialized_only=True):
        # Django would close one in a transaction too, with the work in it.
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
