"""Copies of servers, which are ready sooner than new servers."""

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

_MIN_FREE = 2 * 1024**3  # bytes of memory


@dataclass(frozen=True)
class Original:
    """
    The data of a stopped server.

    Attributes:
        data: Its data directory.
        password: The superuser's password.
    """

    data: Path
    password: str


class Copy(Postgres):
    """
    A copy of a stopped server, with its databases and slots.

    Args:
        original: The stopped server.
        bin: See `Postgres`.
        settings: Configuration parameters that override the defaults.
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
        # Preserves the owner when running as root.
        subprocess.run(["/bin/cp", "-a", self._original.data, self.data], check=True)


class Originals:
    """
    Originals that all workers of a test run share.

    Args:
        directory: The directory in which they are stored.
        bin: See `Postgres`.
    """

    def __init__(self, directory: Path, bin: Path | None) -> None:
        self._directory = directory
        self._bin = bin

    def new(self) -> Original:
        """Return a server as created by ``initdb``."""
        return self._get("new", lambda: Postgres(bin=self._bin), self._speed_up_logins)

    def get(self, name: str, prepare: Callable[[Postgres], None]) -> Original:
        """
        Return the original with a name; the first worker that needs it creates it.

        Args:
            name: The name of the original.
            prepare: A function that prepares a new, running server.
        """

        def prepare_running(server: Postgres) -> None:
            server.start()
            prepare(server)
            server.stop("fast")

        new = self.new()
        return self._get(name, lambda: Copy(new, bin=self._bin), prepare_running)

    def _speed_up_logins(self, server: Postgres) -> None:
        if int((server.data / "PG_VERSION").read_text()) < 16:
            return
        # The default of thousands of iterations makes each connection slow.
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

    def _get(
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
    """Return a file system in memory, where copying is ten times faster."""
    shm = Path("/dev/shm")  # noqa: S108
    if not os.access(shm, os.W_OK):
        return None
    stats = os.statvfs(shm)
    return shm if stats.f_bavail * stats.f_frsize > _MIN_FREE else None
