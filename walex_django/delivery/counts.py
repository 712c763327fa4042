"""Counts of what a listener has delivered."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from walex_django.events.event import Event, EventType
from walex_django.replication.publications import TableName

from .breakers import Failing, Key


class Counts:
    """
    Counts what one listener has delivered since it started.

    Only the delivering thread writes; other threads may read at any time.

    Attributes:
        events: The number of delivered events, by table and type.
        transactions: The number of transactions with at least one delivered event.
        retries: The number of retried calls, by receiver.
        failures: The number of calls that failed after all retries, by receiver.
        failing: The receivers whose last attempt failed.
        last: The last event of the last transaction that was delivered.
        delivering: An event of the transaction that is being delivered, if any.
    """

    __slots__ = (
        "delivering",
        "events",
        "failing",
        "failures",
        "last",
        "retries",
        "transactions",
    )

    def __init__(self) -> None:
        self.events: defaultdict[tuple[TableName, EventType], int] = defaultdict(int)
        self.transactions = 0
        self.retries: defaultdict[str, int] = defaultdict(int)
        self.failures: defaultdict[str, int] = defaultdict(int)
        self.failing: dict[Key, Failing] = {}
        self.last: Event | None = None
        self.delivering: Event | None = None

    def failing_now(self) -> list[Failing]:
        """Return the receivers that are being retried or whose breaker is open."""
        # dict.copy() is atomic; a dict that changes during iteration raises.
        return [
            failing
            for failing in self.failing.copy().values()
            if failing.is_retried or failing.is_open
        ]


def total(counts: dict[Any, int]) -> int:
    """Return the sum of counts that another thread may be updating."""
    # dict.copy() is atomic; a dict that grows during iteration raises.
    return sum(counts.copy().values())
