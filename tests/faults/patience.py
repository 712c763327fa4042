"""For what may take a minute."""

from __future__ import annotations

import time
from collections.abc import Callable


def patiently(condition: Callable[[], bool], what: str) -> None:
    """Look until the condition holds, as `tests.process.eventually`, but longer."""
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)
