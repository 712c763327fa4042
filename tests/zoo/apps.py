from __future__ import annotations

import os
from importlib import import_module

from django.apps import AppConfig


class ZooConfig(AppConfig):
    name = "tests.zoo"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Only in the processes that the tests start.
        if path := os.environ.get("ZOO_JOURNAL"):
            from .journal import keep

            keep(path)
        if module := os.environ.get("ZOO_IMPORT"):
            import_module(module)
