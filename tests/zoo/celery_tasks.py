"""A Celery task, and a handler that passes events to it."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from walex_django import Event, on_insert

app = Celery("zoo", broker=os.environ["ZOO_BROKER"])


@app.task  # type: ignore[untyped-decorator] # Celery has no types
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
        """Do nothing; the function enqueues the task."""
