"""Stream configuration: ``settings.WALEX`` as typed objects, and runtime changes."""

from __future__ import annotations

from .configs import (
    add_config,
    get_config,
    get_configs,
    remove_config,
    replace_config,
)
from .stream import StreamConfig

__all__ = [
    "StreamConfig",
    "add_config",
    "get_config",
    "get_configs",
    "remove_config",
    "replace_config",
]
