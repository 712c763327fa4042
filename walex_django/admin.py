"""The admin's pages."""

from __future__ import annotations

from . import parked_admin, stream_admin  # noqa: F401 - register their pages
