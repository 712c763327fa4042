"""A Django task, and a handler that passes events to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.db import connection

from walex_django import Event, on_insert

# Django has tasks since 6.0.
task: Callable[[Callable[..., object]], object] = import_module(
    "django.tasks" if find_spec("django.tasks") else "django_tasks"
).task


@task
def keep(data: dict[str, Any]) -> None:
    """Store an `Effect` for the event."""
    from .ledger import label
    from .models import Effect

    event = Event.from_dict(data)
    assert event.instance
    Effect.objects.create(event_id=event.id, label=label(event))


if "ZOO_HANDS_OVER" in os.environ:

    @on_insert("zoo.Keeper", functions=[keep])
    def keepers(events: list[Event]) -> None:
        """Wait for a lock if a name says so; the function enqueues the task."""
        for event in events:
            name = (event.new_record or {})["name"]
            if name.startswith("handler waits for "):
                with connection.cursor() as cursor:
                    lock = int(name.removeprefix("handler waits for "))
                    cursor.execute("SELECT pg_advisory_lock(%s)", [lock])
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])
