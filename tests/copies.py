"""Copies of servers: a copy is ready sooner than a new server."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.sql

from example_project.guard import end, removed_at_end
from example_project.postgres import Postgres

_LEAST = 2 * 1024**3  # free in memory, in bytes


@dataclass(frozen=True)
class Original:
    """
    The data of a server that has stopped.

    Attributes:
        data: Its data directory.
        password: The superuser's password.
    """

    data: Path
    password: str


class Copy(Postgres):
    """
    A copy of a server that has stopped, with its databases and slots.

    Args:
        original: That server.
        bin: See `Postgres`.
        settings: Configuration parameters over the defaults.
    """

    def __init__(
        self,
        original: Original | Postgres,
        *,
        bin: Path | None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._original = original
        super().__init__(bin=bin, settings=settings)
        self.password = original.password

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._memory:
            end(self._memory)

    def _initdb(self) -> None:
        self._memory = None
        if memory := _memory():
            place = Path(tempfile.mkdtemp(prefix="walex-postgres-", dir=memory))
            self._memory = removed_at_end(place)
            self.data = place / "data"
            shutil.copystat(self.home, place)
            owner = self.home.stat()
            os.chown(place, owner.st_uid, owner.st_gid)
        # With the owner too, where we are root.
        subprocess.run(["/bin/cp", "-a", self._original.data, self.data], check=True)


class Originals:
    """
    Originals that the workers of a test run share.

    Args:
        directory: Where they are stored.
        bin: See `Postgres`.
    """

    def __init__(self, directory: Path, bin: Path | None) -> None:
        self._directory = directory
        self._bin = bin

    def new(self) -> Original:
        """Return a server as ``initdb`` leaves it."""
        return self._made("new", lambda: Postgres(bin=self._bin), self._new)

    def get(self, name: str, prepare: Callable[[Postgres], None]) -> Original:
        """
        Return the original of that name; the first worker to need it makes it.

        Args:
            name: Distinguishes originals.
            prepare: Called with a new server that runs.
        """

        def prepare_running(server: Postgres) -> None:
            server.start()
            prepare(server)
            server.stop("fast")

        new = self.new()
        return self._made(name, lambda: Copy(new, bin=self._bin), prepare_running)

    def _new(self, server: Postgres) -> None:
        if int((server.data / "PG_VERSION").read_text()) < 16:
            return
        # Each session pays for the thousands of iterations that are the default.
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as session:
            session.execute("SET scram_iterations = 1")
            session.execute(
                psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    psycopg.sql.Identifier(server.user),
                    psycopg.sql.Literal(server.password),
                )
            )
        server.stop("fast")

    def _made(
        self,
        name: str,
        create: Callable[[], Postgres],
        prepare: Callable[[Postgres], None],
    ) -> Original:
        data = self._directory / name
        password = self._directory / f"{name}.json"
        with (self._directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not password.exists():
                server = create()
                try:
                    prepare(server)
                    subprocess.run(["/bin/cp", "-a", server.data, data], check=True)
                finally:
                    server.__exit__()
                password.write_text(json.dumps(server.password))
        return Original(data, json.loads(password.read_text()))


def _memory() -> Path | None:
    """Return a file system in memory, where copies take a tenth of the time."""
    shm = Path("/dev/shm")  # noqa: S108
    if not os.access(shm, os.W_OK):
        return None
    found = os.statvfs(shm)
    return shm if found.f_bavail * found.f_frsize > _LEAST else None
