"""What a ``MESSAGE_MIDDLEWARE`` imports."""

from __future__ import annotations

from .delivery.middleware import StreamEnded

__all__ = ["StreamEnded"]
