"""A file with a short line for each delivered event, for tests under heavy load."""

from __future__ import annotations

import os
from typing import Any

from walex_django import Event
from walex_django.signals import post_db_change


def keep(path: str) -> None:
    """Connect a receiver that writes ``<event id> <type> <pk> <name>`` to a file."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    _truncate_partial_line(file)

    def write(sender: Any, event: Event, **kwargs: Any) -> None:
        # Unbuffered, so that written lines survive SIGKILL.
        os.write(file, f"{event.id} {label(event)}\n".encode())

    post_db_change.connect(write, weak=False)


def label(event: Event) -> str:
    """Return an event's type, primary key and name, or ``-`` if it has no name."""
    record = event.new_record or event.old_record or {}
    return f"{event.type} {record['id']} {record.get('name', '-')}"


def _truncate_partial_line(file: int) -> None:
    """Remove a partial last line left by a killed process."""
    size = os.fstat(file).st_size
    tail = os.pread(file, 4096, max(0, size - 4096))
    os.ftruncate(file, size - len(tail) + tail.rfind(b"\n") + 1)
