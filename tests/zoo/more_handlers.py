"""Handlers outside the app's ``walex`` module, for ``MODULES``."""

from __future__ import annotations

from walex_django import Event, on_insert

from .walex import note


@on_insert("zoo.Keeper")
def more_keepers(events: list[Event]) -> None:
    """Note the names of all keepers."""
    names = [(event.new_record or {})["name"] for event in events]
    note(f"more keepers {', '.join(names)}")
