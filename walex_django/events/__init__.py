"""The events that receivers get, and the tables and values behind them."""

from __future__ import annotations

from .event import Change, Event, EventType
from .table import Source

__all__ = ["Change", "Event", "EventType", "Source"]
