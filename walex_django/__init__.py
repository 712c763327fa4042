"""PostgreSQL change data capture as Django signals."""

from __future__ import annotations

from .events.event import Change, Event, EventType
from .events.table import Source
from .handlers.registry import on_delete, on_event, on_insert, on_truncate, on_update
from .pgoutput.lsn import Lsn
from .pgoutput.messages import UNCHANGED
from .pgoutput.values import ExactText
from .subscriptions import ALL_TABLES
from .version import __version__

__all__ = [
    "ALL_TABLES",
    "UNCHANGED",
    "Change",
    "Event",
    "EventType",
    "ExactText",
    "Lsn",
    "Source",
    "__version__",
    "on_delete",
    "on_event",
    "on_insert",
    "on_truncate",
    "on_update",
]
