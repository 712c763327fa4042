"""Views for your own URL patterns."""

from __future__ import annotations

from .monitoring.views import health, metrics

__all__ = ["health", "metrics"]
