"""Settings of the site that the browser visits, with four streams."""

from __future__ import annotations

import os
from typing import Any

import environ

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, WALEX

ALLOWED_HOSTS = ["127.0.0.1"]
for _alias in ("lost", "away"):
    _url = os.environ.get(f"ZOO_{_alias.upper()}_URL", "postgres://127.0.0.1:1/away")
    DATABASES[_alias] = environ.Env.db_url_config(_url)
    _stream: dict[str, Any] = {
        "DATABASE": _alias,
        "PUBLICATION": "zoo_events",
        "SLOT_NAME": f"{_alias}_walex",
        "DURABLE_SLOT": True,
        "SUBSCRIPTIONS": ["zoo.Keeper"],
    }
    WALEX[_alias] = _stream
