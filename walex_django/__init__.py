"""PostgreSQL change data capture as Django signals."""

from __future__ import annotations

from .events import Change, Event, EventType
from .filters import ALL_TABLES
from .handlers import on_delete, on_event, on_insert, on_truncate, on_update
from .pgoutput.lsn import Lsn
from .pgoutput.messages import UNCHANGED
from .pgoutput.values import ExactText
from .tables import Source
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
