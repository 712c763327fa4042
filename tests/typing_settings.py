"""Settings with all apps of the repository, for the type checker."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "benchmarks", "example_project.shop"]
SHOP_PRINT_EVENTS = False
SHOP_COLOR = False
