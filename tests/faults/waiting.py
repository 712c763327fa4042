"""Waiting for conditions that can take minutes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_long(condition: Callable[[], bool], what: str) -> None:
    """Wait as `tests.process.eventually` does, with a longer timeout."""
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)
