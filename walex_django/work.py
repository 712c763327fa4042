"""The receivers' work on one transaction of the source, and the end of it."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from typing import Any

from django.db import (
    OperationalError,
    close_old_connections,
    connections,
    reset_queries,
    transaction,
)

from .checkpoints import CheckpointWriter, database
from .pgoutput.lsn import Lsn
from .signals import Receiver

logger = logging.getLogger(__name__)

_RENEW_CONNECTIONS_EVERY = 1.0  # seconds


class Work:
    """
    What surrounds the calls of receivers: here nothing, each does its own.

    Args:
        checkpoint: of the slot; `None` where that is a temporary one.
    """

    def __init__(self, checkpoint: CheckpointWriter | None) -> None:
        self._checkpoint = checkpoint
        self._begun = False
        self._renewed = 0.0

    def is_done(self, position: Lsn) -> bool:
        """Return whether a transaction was done before. Args: position: its COMMIT."""
        return False

    def calling(self, receiver: Receiver) -> Receiver:
        """Return what calls a receiver."""
        return receiver

    def begin(self) -> None:
        """Receivers are about to be called; their work may have begun before."""
        if not self._begun:
            self._begun = True
            self._renew_connections()

    def require_intact(self, error: BaseException) -> None:
        """Raise if a receiver's failure has undone what others did before it."""

    def commit(self, position: Lsn) -> None:
        """
        All receivers have returned, or their calls are parked.

        Args:
            position: of the transaction's COMMIT.
        """
        if self._begun and self._checkpoint:
            self._checkpoint.note(position)
        self._begun = False

    def abandon(self) -> None:
        """Undo what can be undone: the transaction will come again."""

    def _renew_connections(self) -> None:
        """Do for Django's connections what a request does, but not for each event."""
        now = time.monotonic()
        if now - self._renewed > _RENEW_CONNECTIONS_EVERY:
            self._renewed = now
            reset_queries()
            close_old_connections()


class AtomicWork(Work):
    """
    All receivers and the checkpoint in one transaction of the receivers' database.

    Each call has a savepoint, so that one that fails leaves nothing behind.

    Args:
        checkpoint: of the slot.
    """

    def __init__(self, checkpoint: CheckpointWriter) -> None:
        super().__init__(checkpoint)
        self._writer = checkpoint
        self._alias = database()
        self._transaction: transaction.Atomic | None = None

    def is_done(self, position: Lsn) -> bool:  # noqa: D102
        return position <= self._writer.done

    def calling(self, receiver: Receiver) -> Receiver:  # noqa: D102
        return partial(self._call, receiver)

    def require_intact(self, error: BaseException) -> None:
        """
        Raise if a failure has broken the connection, and with it the transaction.

        Raises:
            django.db.OperationalError: it has.
        """
        if (
            transaction.get_rollback(self._alias)
            or not connections[self._alias].is_usable()
        ):
            raise OperationalError("its transaction is gone") from error

    def begin(self) -> None:  # noqa: D102
        if self._transaction is None:
            self._renew_connections()
            begun = transaction.atomic(using=self._alias, durable=True)
            begun.__enter__()
            self._transaction = begun

    def commit(self, position: Lsn) -> None:
        """
        Commit the receivers' work with the checkpoint.

        Raises:
            Overtaken: another listener did the same transaction.
            django.db.Error: the database did not take it; nothing of it is there.
        """
        if self._transaction is None:
            return
        self._writer.advance(position)
        ended, self._transaction = self._transaction, None
        try:
            ended.__exit__(None, None, None)
        except Exception:
            # Django calls the hooks of on_commit() as it leaves the transaction, and
            # only the checkpoint tells whether that was committed.
            if not self._writer.is_at(position):
                raise
            logger.exception("A function given to on_commit() failed at %s", position)
        self._writer.done = position

    def abandon(self) -> None:  # noqa: D102
        if self._transaction is not None:
            ended, self._transaction = self._transaction, None
            transaction.set_rollback(True, using=self._alias)
            ended.__exit__(*sys.exc_info())

    def _call(self, receiver: Receiver, **arguments: Any) -> None:
        with transaction.atomic(using=self._alias):
            receiver(**arguments)
            # What is checked at COMMIT only would be nobody's failure.
            connections[self._alias].check_constraints()
