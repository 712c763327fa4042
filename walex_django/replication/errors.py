"""What can go wrong between us and the server, and what mends it."""

from __future__ import annotations


class ReplicationError(Exception):
    """
    The stream cannot go on.

    Attributes:
        reason: what is wrong, a sentence.
        hint: what to do about it, a sentence or a command.
        passing: trying again later can help without anybody's doing.
    """

    passing = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.reason, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.reason} {self.hint}" if self.hint else self.reason


class CannotConnect(ReplicationError):
    """The server did not take the connection."""

    def __init__(self, message: str, *, hint: str = "", passing: bool) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


class ConnectionLost(ReplicationError):
    """The connection ended, from the server's side or on the way."""

    passing = True


class NotPrepared(ReplicationError):
    """The server or the role is not set up for logical decoding."""


class SlotMissing(ReplicationError):
    """There is no such slot."""


class SlotInUse(ReplicationError):
    """Another process reads from the slot."""

    passing = True


class SlotUnusable(ReplicationError):
    """The slot is of another kind or database, or its log is gone."""


class SlotWaiting(ReplicationError):
    """The slot is a standby's copy, which can be read once that is promoted."""

    passing = True


class SlotBroken(ReplicationError):
    """The slot does not start where it was read up to: changes between are lost."""


class PublicationMissing(ReplicationError):
    """There is no such publication, or none when the change was made."""


class StreamPaused(ReplicationError):
    """Somebody has paused the stream, and it is to come to an end."""
