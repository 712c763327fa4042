"""What a listener process heard, a short line for each event, for heavy load."""

from __future__ import annotations

import os
from typing import Any

from walex_django import Event
from walex_django.signals import post_db_change


def keep(path: str) -> None:
    """Connect a receiver that writes ``<event id> <type> <pk> <name>`` to a file."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    _mend(file)

    def write(sender: Any, event: Event, **kwargs: Any) -> None:
        # Not buffered here: what the system has taken outlives a kill -9.
        os.write(file, f"{event.id} {label(event)}\n".encode())

    post_db_change.connect(write, weak=False)


def label(event: Event) -> str:
    """Return type, primary key and name; ``-`` for the name of a row that is gone."""
    record = event.new_record or event.old_record or {}
    return f"{event.type} {record['id']} {record.get('name', '-')}"


def _mend(file: int) -> None:
    """Cut off the half of a line that a killed process left."""
    size = os.fstat(file).st_size
    tail = os.pread(file, 4096, max(0, size - 4096))
    os.ftruncate(file, size - len(tail) + tail.rfind(b"\n") + 1)
