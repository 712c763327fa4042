"""A temporary Redis server that can be killed and restarted."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import redis

from example_project.guard import end, guarded, removed_at_end

from .process import eventually
from .programs import redis_server


class RedisServer:
    """
    Redis or Valkey on a free port, run as the user ``nobody`` when we are root.

    Attributes:
        url: The URL for clients.
    """

    def __init__(self) -> None:
        program = redis_server()
        assert program
        self._home = Path(tempfile.mkdtemp(prefix="walex-redis-"))
        self._remover = removed_at_end(self._home)
        # The user nobody may have no access to the virtual environment.
        self._program = str(shutil.copy(program, self._home))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid}
            os.chown(self._home, nobody.pw_uid, nobody.pw_gid)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        end(self._remover)

    def start(self) -> None:
        """Start the server with its stored data; return when it answers."""
        self._process = guarded(
            [
                *(self._program, "--port", str(self._port), "--bind", "127.0.0.1"),
                *("--dir", str(self._home), "--save", "", "--appendonly", "yes"),
                *("--appendfsync", "always"),
            ],
            # Closing the guard's input sends SIGKILL, without a clean shutdown.
            signal="KILL",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._home,
            **self._as,
        )
        eventually(self._answers, "the start of Redis")

    def kill(self) -> None:
        """Kill the server by SIGKILL."""
        if self._process:
            end(self._process)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the server, which then accepts connections but does not answer."""
        with redis.Redis.from_url(self.url) as client:
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:  # not started, or still loading its data
            return False
