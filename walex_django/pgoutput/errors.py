"""What can be wrong with bytes."""

from __future__ import annotations


class ProtocolError(ValueError):
    """
    Bytes that are no message of the protocol.

    Attributes:
        message: name of the message that was being read, such as ``"Insert"``.
        offset: place of the offending byte, counted from the start of the message.
        reason: what is wrong there.
    """

    def __init__(self, message: str, offset: int, reason: str) -> None:
        self.message, self.offset, self.reason = message, offset, reason
        super().__init__(message, offset, reason)

    def __str__(self) -> str:
        return f"{self.message}, byte {self.offset}: {self.reason}"
