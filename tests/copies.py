"""Copies of a server: there sooner than a new one."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from example_project.postgres import Postgres


class Copy(Postgres):
    """
    A copy of a server that has stopped, with its databases and slots.

    Args:
        original: that server.
        bin: see `Postgres`.
        settings: configuration parameters over its own.
    """

    def __init__(
        self, original: Postgres, *, bin: Path | None, settings: Mapping[str, str]
    ) -> None:
        self._original = original
        super().__init__(bin=bin, settings=settings)
        self.password = original.password

    def _initdb(self) -> None:
        # With the owner too, where we are root.
        subprocess.run(["/bin/cp", "-a", self._original.data, self.data], check=True)
