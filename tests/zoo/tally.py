"""A file with each transaction's number of events, and how many were out of order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from walex_django import Event
from walex_django.signals import post_db_insert, post_db_transaction

from .models import Keeper


class Tally:
    """
    A counter of each transaction's keepers, which must be named 1, 2, 3 and so on.

    Args:
        path: The file that gets a line of JSON at the end of each transaction.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = self._misplaced = 0

    def insert(self, sender: Any, event: Event, **kwargs: Any) -> None:
        """Count a keeper."""
        assert event.new_record
        self._count += 1
        self._misplaced += event.new_record["name"] != str(self._count)

    def end(self, last: bool, **kwargs: Any) -> None:
        """Write the line at the end of the transaction, and reset the counts."""
        if last:
            line = {"count": self._count, "misplaced": self._misplaced}
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._count = self._misplaced = 0


def keep(path: str) -> None:
    """Connect a tally to the signals."""
    tally = Tally(Path(path))
    post_db_insert.connect(tally.insert, sender=Keeper, weak=False)
    post_db_transaction.connect(tally.end, weak=False)
