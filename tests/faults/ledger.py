"""What listener processes under load heard; see `tests.zoo.ledger`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

PATIENCE = 60  # seconds in which something new is to be heard


class Entry(NamedTuple):
    """An event: its id, and type, primary key and name of its row."""

    id: str
    change: str


class Ledger:
    """
    Reads the file as it grows.

    Attributes:
        entries: the events so far, repeated ones too.
        changes: what was heard of at least once.
    """

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self.changes: set[str] = set()
        self._path = path
        self._offset = 0

    def read(self) -> int:
        """Take in what is new; return how many events that are."""
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
        """Return when so many further events were heard, new or repeated."""
        target = len(self.entries) + more
        self._wait(lambda: len(self.entries) >= target, f"{target} events")

    def wait_until_heard(self, changes: Collection[str]) -> None:
        """Return when all of these changes were heard of."""
        wanted = set(changes)
        self._wait(lambda: wanted <= self.changes, "the last of the changes")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.read():
                deadline = time.monotonic() + PATIENCE
            assert time.monotonic() < deadline, (
                f"{what} did not come after {len(self.entries)}: {self.entries[-1:]}"
            )
            time.sleep(0.02)
