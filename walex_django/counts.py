"""What a listener has delivered."""

from __future__ import annotations

from typing import Any

from .events import Event
from .replication.publications import TableName


class Counts:
    """
    What one listener has done since its start.

    Written by the thread that delivers; others may read it at any time.

    Attributes:
        events: delivered, by table and type.
        transactions: of which something was delivered.
        retries, failures: calls of receivers made again, and given up, by receiver.
        last: the last event that was delivered, or is being.
        in_hand: one of the transaction that is being delivered.
    """

    __slots__ = ("events", "failures", "in_hand", "last", "retries", "transactions")

    def __init__(self) -> None:
        self.events: dict[tuple[TableName, str], int] = {}
        self.transactions = 0
        self.retries: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.last: Event | None = None
        self.in_hand: Event | None = None

    def retry(self, receiver: str) -> None:
        """Count a call that is made again."""
        self.retries[receiver] = self.retries.get(receiver, 0) + 1

    def fail(self, receiver: str) -> None:
        """Count a call that is given up."""
        self.failures[receiver] = self.failures.get(receiver, 0) + 1


def total(counted: dict[Any, int]) -> int:
    """Return the sum of counts that another thread may be adding to."""
    # Of a copy, made in one step: a dict must not grow while it is walked through.
    return sum(counted.copy().values())
