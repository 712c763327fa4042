"""What a listener has delivered."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from walex_django.events.event import Event, EventType
from walex_django.replication.publications import TableName


class Counts:
    """
    What one listener has done since its start.

    Written by the thread that delivers; others may read it at any time.

    Attributes:
        events: delivered, by table and type.
        transactions: of which something was delivered.
        retries, failures: calls of receivers made again, and given up, by receiver.
        last: the last event that was delivered, or is being.
        delivering: one of the transaction that is being delivered.
    """

    __slots__ = ("delivering", "events", "failures", "last", "retries", "transactions")

    def __init__(self) -> None:
        self.events: defaultdict[tuple[TableName, EventType], int] = defaultdict(int)
        self.transactions = 0
        self.retries: defaultdict[str, int] = defaultdict(int)
        self.failures: defaultdict[str, int] = defaultdict(int)
        self.last: Event | None = None
        self.delivering: Event | None = None


def total(counted: dict[Any, int]) -> int:
    """Return the sum of counts that another thread may be adding to."""
    # Of a copy, made in one step: a dict must not grow while it is walked through.
    return sum(counted.copy().values())
