"""A task of Django, and the handler that hands events over to it."""

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
    """Keep an effect of an event."""
    from .ledger import label
    from .models import Effect

    event = Event.from_dict(data)
    assert event.instance
    Effect.objects.create(event_id=event.id, label=label(event))


if "ZOO_HANDS_OVER" in os.environ:

    @on_insert("zoo.Keeper", functions=[keep])
    def keepers(events: list[Event]) -> None:
        """Leave it to the workers, perhaps not before the test lets go of a lock."""
        for event in events:
            name = (event.new_record or {})["name"]
            if name.startswith("handler waits for "):
                with connection.cursor() as cursor:
                    lock = int(name.removeprefix("handler waits for "))
                    cursor.execute("SELECT pg_advisory_lock(%s)", [lock])
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])
