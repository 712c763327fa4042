"""The events delivered by listeners under load; see `tests.zoo.ledger`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 60  # seconds without a new event


class Entry(NamedTuple):
    """An event's id, and its type with the primary key and name of its row."""

    id: str
    change: str


class Ledger:
    """
    Reader of the file, which may still be growing.

    Attributes:
        entries: The events so far, including repeated ones.
        changes: The changes delivered at least once.
    """

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self.changes: set[str] = set()
        self._path = path
        self._offset = 0

    def read(self) -> int:
        """Read the new events; return how many there are."""
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [
            Entry(*line.split(" ", maxsplit=1)) for line in whole.decode().splitlines()
        ]
        self.entries += new
        self.changes.update(entry.change for entry in new)
        return len(new)

    def wait_for(self, more: int) -> None:
        """Wait for that many further events, new or repeated."""
        target = len(self.entries) + more
        self._wait(lambda: len(self.entries) >= target, f"{target} events")

    def wait_until_delivered(self, changes: Collection[str]) -> None:
        """Wait until all of these changes have been delivered."""
        wanted = set(changes)
        self._wait(lambda: wanted <= self.changes, "the last of the changes")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if self.read():
                deadline = time.monotonic() + TIMEOUT
            assert time.monotonic() < deadline, (
                f"{what} did not come after {len(self.entries)}: {self.entries[-1:]}"
            )
            time.sleep(0.02)
