"""What is wrong between a stream's settings and its server."""

from __future__ import annotations

from .replication.connection import Connection
from .settings_reader import Problem
from .stream_config import StreamConfig


def problems(config: StreamConfig, connection: Connection) -> list[Problem]:
    """Return what is wrong; asks the catalogue only."""
    return []
