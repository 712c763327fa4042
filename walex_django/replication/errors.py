"""Exceptions for replication problems, each with a hint on how to fix it."""

from __future__ import annotations

from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import Begin


class ReplicationError(Exception):
    """
    The stream cannot continue.

    Attributes:
        reason: A sentence that describes the problem.
        hint: A sentence or command that fixes it.
        passing: Whether a later retry may succeed without intervention.
    """

    passing = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.reason, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.reason} {self.hint}" if self.hint else self.reason


class CannotConnect(ReplicationError):
    """The connection to the server could not be established."""

    def __init__(self, message: str, *, hint: str = "", passing: bool) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


class ConnectionLost(ReplicationError):
    """The server or the network ended the connection."""

    passing = True


class TableLocked(ReplicationError):
    """Another transaction locks a table of walex_django, or a row of one."""

    passing = True


class NotPrepared(ReplicationError):
    """The server or the role is not configured for logical decoding."""


class SlotMissing(ReplicationError):
    """The slot does not exist."""


class SlotInUse(ReplicationError):
    """Another process is reading from the slot."""

    passing = True


class SlotUnusable(ReplicationError):
    """The slot has another type or database, or the WAL that it needs was removed."""


class SlotWaiting(ReplicationError):
    """The slot is a standby's copy, which can be read after its promotion."""

    passing = True


class SlotBroken(ReplicationError):
    """The slot doesn't start where it was last read; the changes between are lost."""


class PublicationMissing(ReplicationError):
    """The publication does not exist, or did not when the change was made."""


class DecodingFailed(ReplicationError):
    """
    The server cannot decode a change, or cannot send it.

    Attributes:
        error: The server's error message.
        sqlstate: The SQLSTATE of the error.
        position: The LSN of the change, if the server reports it.
        table: The table of the change, if the error names it.
        begin: The BEGIN of the change's transaction, if it was received.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str,
        sqlstate: str,
        position: Lsn | None,
        table: str = "",
        hint: str = "",
        passing: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.error, self.sqlstate = error, sqlstate
        self.position, self.table = position, table
        self.passing = passing
        self.begin: Begin | None = None

    def is_like(self, other: DecodingFailed) -> bool:
        """Return whether another error is about the same change."""
        if self.position or other.position:
            return self.position == other.position
        return (self.sqlstate, self.error) == (other.sqlstate, other.error)


class UnpublishedChange(DecodingFailed, PublicationMissing):
    """A change was made while one of the stream's publications did not exist."""


class StreamPaused(ReplicationError):
    """The stream was paused and has to stop."""


class LockTimeout(ReplicationError):
    """Another session holds a lock that a statement needs."""
