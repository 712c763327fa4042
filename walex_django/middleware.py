"""Names for use in a ``MESSAGE_MIDDLEWARE``."""

from __future__ import annotations

from .delivery.middleware import StreamEnded

__all__ = ["StreamEnded"]
