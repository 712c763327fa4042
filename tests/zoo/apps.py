from __future__ import annotations

import os
from importlib import import_module

from django.apps import AppConfig

_RECEIVERS = {
    "ZOO_JOURNAL": "journal",
    "ZOO_EFFECTS": "effects",
    "ZOO_LEDGER": "ledger",
    "ZOO_TALLY": "tally",
}


class ZooConfig(AppConfig):
    name = "tests.zoo"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Only in the processes that the tests start.
        for variable, module in _RECEIVERS.items():
            if value := os.environ.get(variable):
                import_module(f"tests.zoo.{module}").keep(value)
        if imported := os.environ.get("ZOO_IMPORT"):
            import_module(imported)
