"""
Processes forked from a parent that has imported Django, which makes them start fast.

Run as a program, this module is the parent, see `Forked`. It imports no module that
reads settings, so each process reads those of its own environment.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent

_IMPORTED = [
    "django.contrib.admin",
    "django.contrib.admin.views.main",
    "django.contrib.auth.password_validation",
    "django.contrib.auth.tokens",
    "django.contrib.auth.validators",
    "django.contrib.contenttypes.checks",
    "django.contrib.messages.apps",
    "django.contrib.postgres.apps",
    "django.contrib.postgres.fields",
    "django.contrib.postgres.forms",
    "django.contrib.sessions.backends.db",
    "django.contrib.staticfiles.apps",
    "django.core.management",
    "django.core.management.commands.check",
    "django.core.management.commands.migrate",
    "django.core.servers.basehttp",
    "django.db.backends.postgresql.base",
    "django.db.backends.postgresql.psycopg_any",
    "django.template.loader",
    "django.utils.autoreload",
    "django.views.csrf",
    "environ",
    "psycopg.pq",
    "psycopg.types",
    "urllib.request",
    "uuid",
    "walex_django",
]
_LARGEST = 200_000  # bytes of a request
_WIDTH = 10  # digits of a process id


class Forked:
    """
    A process like ``python -u PROGRAM ARGUMENTS``, without the time for imports.

    Args:
        command: The program and its arguments.
        env: The environment of the process.
        output: The file descriptor for its output; the caller closes it.

    Attributes:
        pid: The process id.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], output: int
    ) -> None:
        self.pid, self._status = _parent.fork(command, env, output)
        self._returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status if the process has ended, like `subprocess.Popen`."""
        if self._returncode is None and _readable(self._status, 0):
            self._returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self._returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end; return the exit status."""
        if self._returncode is None and not _readable(self._status, timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process by SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The parent of all forked processes; it exits with this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def fork(
        self, command: Sequence[str], env: Mapping[str, str], output: int
    ) -> tuple[int, int]:
        """Return a new process's id, and a file descriptor for its exit status."""
        request = json.dumps([list(command), dict(env)]).encode()
        assert len(request) <= _LARGEST
        status, theirs = os.pipe()
        with self._lock:
            requests = self._start()
            socket.send_fds(requests, [request], [output, theirs])
            os.close(theirs)
            pid = int(os.read(status, _WIDTH))
        return pid, status

    def _start(self) -> socket.socket:
        if self._requests is None:
            self._requests, theirs = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET
            )
            for end in (self._requests, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-u", __file__, str(theirs.fileno())],
                    cwd=_ROOT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            atexit.register(self._end)
        return self._requests

    def _end(self) -> None:
        assert self._requests
        assert self._process
        self._requests.close()
        self._process.wait()


_parent = _Parent()


def _readable(file: int, timeout: float | None) -> bool:
    return bool(select.select([file], [], [], timeout)[0])


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork on request; return the command in each child, `None` in the parent."""
    running: dict[int, int] = {}  # process id: descriptor for its exit status
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Ctrl-C stops the tests, and this process exits with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 100)
            _report(running)
        if requests.fileno() not in ready:
            continue
        request, files, _, _ = socket.recv_fds(requests, _LARGEST, 2)
        if not request:
            return None
        output, status = files
        pid = os.fork()
        if pid == 0:
            _become_new(output)
            for file in (output, status, woken, wake, *running.values()):
                os.close(file)
            requests.close()
            command, env = json.loads(request)
            os.environ.clear()
            os.environ.update(env)
            time.tzset()
            return list(command)
        os.close(output)
        # Before the exit status, which uses the same descriptor.
        os.write(status, b"%*d" % (_WIDTH, pid))
        running[pid] = status


def _report(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        file = running.pop(pid)
        with suppress(BrokenPipeError):  # the reader is gone
            os.write(file, b"%d" % os.waitstatus_to_exitcode(status))
        os.close(file)


def _become_new(output: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _run(command: list[str]) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


def _import() -> None:
    for name in _IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()


def _main() -> Any:
    sys.path[0] = str(_ROOT)
    _import()
    command = _serve(socket.socket(fileno=int(sys.argv[1])))
    if command is not None:
        _run(command)


if __name__ == "__main__":
    _main()
