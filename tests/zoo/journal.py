"""A file with the events that a listener process delivers, for the test to read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.db import connection

from walex_django import Event
from walex_django.signals import post_db_change, post_db_insert

from .models import Keeper


def keep(path: str) -> None:
    """Connect receivers that write events to a file and obey commands in names."""

    def write(sender: Any, event: Event, stream: str, **kwargs: Any) -> None:
        record = event.new_record or event.old_record or {}
        line = {"stream": stream, **event.as_dict(), "label": record.get("name")}
        with Path(path).open("a") as journal:
            journal.write(json.dumps(line) + "\n")

    def obey(sender: Any, event: Event, **kwargs: Any) -> None:
        keeper = event.instance
        assert isinstance(keeper, Keeper)
        if keeper.name == "raise" and "ZOO_MENDED" not in os.environ:
            raise RuntimeError("the keeper said so")
        if keeper.name.startswith("wait for "):
            # A receiver that runs until the test releases the lock.
            with connection.cursor() as cursor:
                lock = int(keeper.name.removeprefix("wait for "))
                cursor.execute("SELECT pg_advisory_lock(%s)", [lock])
                cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])
        if keeper.name.startswith("read "):
            # One that works without the database until something writes to a pipe.
            Path(keeper.name.removeprefix("read ")).read_text()
        if keeper.name == "die" and "ZOO_IMMORTAL" not in os.environ:
            os._exit(9)

    post_db_insert.connect(obey, sender=Keeper, weak=False)
    post_db_change.connect(write, weak=False)
