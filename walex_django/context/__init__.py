"""Who makes a change, and why: the writer's context, as `Event.context` has it."""

from __future__ import annotations

from .frames import Context, context, current
from .middleware import ContextMiddleware
from .writer import attach

__all__ = ["Context", "ContextMiddleware", "attach", "context", "current"]
