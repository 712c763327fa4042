"""Models of this app, which has no migrations."""

from __future__ import annotations

from . import field_models, tables_models

__all__ = ["field_models", "tables_models"]
