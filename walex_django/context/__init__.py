"""The writer's context of a change, which arrives as `Event.context`."""

from __future__ import annotations

from .frames import Context, context, current
from .middleware import ContextMiddleware
from .writer import attach

__all__ = ["Context", "ContextMiddleware", "attach", "context", "current"]
