"""The admin's pages."""

from __future__ import annotations

from . import parked, streams  # noqa: F401 - register their pages
