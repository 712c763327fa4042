"""Exceptions for malformed protocol data."""

from __future__ import annotations


class ProtocolError(ValueError):
    """
    The data isn't a valid protocol message.

    Attributes:
        message: The name of the message being read, such as ``"Insert"``.
        offset: The offset of the offending byte from the start of the message.
        reason: A description of the problem at that offset.
    """

    def __init__(self, message: str, offset: int, reason: str) -> None:
        self.message, self.offset, self.reason = message, offset, reason
        super().__init__(message, offset, reason)

    def __str__(self) -> str:
        return f"{self.message}, byte {self.offset}: {self.reason}"
