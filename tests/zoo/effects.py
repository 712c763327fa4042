"""A receiver that writes a row for each event."""

from __future__ import annotations

from typing import Any

from walex_django import Event
from walex_django.signals import post_db_change

from .ledger import label
from .models import Effect


def keep(_: str) -> None:
    """Connect a receiver that inserts an `Effect` for each event, repeated or not."""

    def insert(sender: Any, event: Event, **kwargs: Any) -> None:
        Effect.objects.create(event_id=event.id, label=label(event))

    post_db_change.connect(insert, weak=False)
