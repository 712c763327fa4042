"""Handlers, registered only in processes whose tests request them."""

from __future__ import annotations

import os
from pathlib import Path

from django.db import connection

from walex_django import Event, on_insert

NOTES = os.environ.get("ZOO_HANDLED")


def note(text: str) -> None:
    """Append a line for the test to read."""
    assert NOTES
    with Path(NOTES).open("a") as notes:
        notes.write(f"{text}\n")


def function(event: Event) -> None:
    """Note a keeper, after waiting for a lock if its name says so."""
    name = (event.new_record or {})["name"]
    if name.startswith("function waits for "):
        with connection.cursor() as cursor:
            lock = int(name.removeprefix("function waits for "))
            cursor.execute("SELECT pg_advisory_lock(%s)", [lock])
            cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])
    note(f"function {name}")


if NOTES:

    @on_insert("zoo.Keeper", functions=["function"])
    def keepers(events: list[Event]) -> None:
        """Note the names of all keepers."""
        names = [(event.new_record or {})["name"] for event in events]
        note(f"keepers {', '.join(names)}")
