"""Management commands in separate processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Self

from .forks import Forked

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds; enough for busy machines


class Process:
    """
    A process ``manage.py COMMAND`` with the settings of the tests.

    Args:
        arguments: The command and its options.
        env: Variables that override the environment of the tests.
        program: The program to run instead of ``manage.py``.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        program: Sequence[str] = ("manage.py",),
    ) -> None:
        self.lines: list[str] = []
        self._changed = Condition()
        reading, writing = os.pipe()
        self._output = os.fdopen(reading)
        try:
            self._popen = _start([*program, *arguments], env or {}, writing)
        finally:
            os.close(writing)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._popen.poll() is None:
            if isinstance(self._popen, subprocess.Popen):
                # A child that outlived the process would keep its output open.
                with suppress(ProcessLookupError):
                    os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.kill()
        self._popen.wait()
        self._reader.join()
        self._output.close()

    @property
    def output(self) -> str:
        """The output so far."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def wait_for(self, text: str) -> str:
        """Wait for a line that contains the text; return the line."""

        def find() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._changed:
            self._changed.wait_for(
                lambda: find() or not self._reader.is_alive(), timeout=TIMEOUT
            )
        line = find()
        assert line is not None, f"no {text!r} in:\n{self.output}"
        return line

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._popen.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end; return its exit status."""
        status = self._popen.wait(TIMEOUT)
        self._reader.join()
        return status

    def _read(self) -> None:
        for line in self._output:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def _start(
    command: list[str], env: dict[str, str], output: int
) -> Forked | subprocess.Popen[bytes]:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **env}
    # Python reads its own variables and options only at startup.
    if any(name.startswith("PYTHON") for name in env) or command[0] == "-c":
        return subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return Forked(command, environment, output)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the events that a listener process has delivered so far."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def eventually(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait until the condition holds, checking less often as time passes."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < TIMEOUT, f"{what} did not happen"
        # Most conditions query the server in a new session, which is expensive.
        time.sleep(min(0.02 + waited / 10, 0.1))
