from __future__ import annotations

from typing import Any


class OneDatabase:
    """All tables of the zoo are in the first database, keepers in both."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        if db == "second" and hints.get("model_name") != "keeper":
            return False
        return None
