"""The admin's pages."""

from __future__ import annotations

from . import stream_admin  # noqa: F401 - registers its page
