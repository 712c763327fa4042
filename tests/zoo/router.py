from __future__ import annotations

from typing import Any


class OneDatabase:
    """All that the zoo has is in the first database, its keepers in both."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        if db == "second" and hints.get("model_name") != "keeper":
            return False
        return None
