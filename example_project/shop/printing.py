"""A receiver that prints events, for the demo."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.color import color_style

from walex_django import Event, EventType

_STYLES = {
    EventType.INSERT: "SUCCESS",
    EventType.UPDATE: "WARNING",
    EventType.DELETE: "ERROR",
    EventType.TRUNCATE: "NOTICE",
}


def print_event(sender: Any, event: Event, **kwargs: Any) -> None:
    """Print an event as one line."""
    paint = getattr(color_style(force_color=settings.SHOP_COLOR), _STYLES[event.type])
    table = event.model._meta.label if event.model else event.name
    sys.stdout.write(
        f"{paint(f'{event.type.upper():8}')} {table:16} {_values(event)}\n"
    )
    sys.stdout.flush()


def _values(event: Event) -> str:
    if event.type is EventType.TRUNCATE:
        return ""
    if event.changes is not None:
        key: Any = event.instance
        changes = ", ".join(
            f"{name}: {change.old_value} → {change.new_value}"
            for name, change in event.changes.items()
        )
        return f"#{key.pk} {changes or 'no changes'}"
    record = event.new_record or event.old_record or {}
    return " ".join(f"{name}={value}" for name, value in record.items())
