"""Admin pages for streams and parked events."""

from __future__ import annotations

from . import parked, streams  # noqa: F401 - registers the pages
