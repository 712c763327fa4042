"""The demo, as a new user runs it."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.process import Process, eventually

SETTINGS = {"DJANGO_SETTINGS_MODULE": "example_project.settings"}


@pytest.fixture
def home(programs: Path | None) -> Iterator[dict[str, str]]:
    """An environment with a temporary directory that the server can access."""
    # Not pytest's directory: each session of pytest closes it to other users.
    with TemporaryDirectory(prefix="walex-demo-") as directory:
        Path(directory).chmod(0o755)
        yield {**SETTINGS, "TMPDIR": directory}


def test_demo_shows_changes_that_post_save_misses(home: dict[str, str]) -> None:
    with Process("demo", "--pause=0", "--port=0", "--no-color", env=home) as demo:
        demo.wait_for(" DELETE ")
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0, demo.output

    # Two spaces after the type: without a terminal there are no colour codes.
    for line in (
        r"post_save  nothing",
        r"post_save  shop\.Customer #2",
        r"walex +INSERT +shop\.Product +id=1 name=Tea price=3.50",
        r"walex +UPDATE +shop\.Order +#2 status: placed → paid",
        r"walex +UPDATE +shop\.Order +#2 status: paid → shipped",
        r"walex +DELETE +shop\.Customer +id=2",
    ):
        assert re.search(line, demo.output), f"no {line}\n{demo.output}"
    assert "Traceback" not in demo.output


def test_demo_exits_after_given_seconds(home: dict[str, str]) -> None:
    with Process("demo", "--seconds=0.1", "--port=0", env=home) as demo:
        assert demo.wait() == 0, demo.output
    assert "Product" in demo.output


def test_demo_serves_shop_and_admin(home: dict[str, str]) -> None:
    with Process("demo", "--pause=0", "--port=0", env=home) as demo:
        shop = demo.wait_for("  Shop ").split()[1]
        demo.wait_for("with a cascade")
        with urllib.request.urlopen(shop) as page:  # noqa: S310 - it is our own
            assert "Kettle" in page.read().decode()
        with urllib.request.urlopen(f"{shop}admin/") as page:  # noqa: S310
            assert "Log in" in page.read().decode()
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0, demo.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_demo_leaves_nothing_behind(
    home: dict[str, str], number: signal.Signals
) -> None:
    with Process("demo", "--pause=0", "--port=0", env=home) as demo:
        demo.wait_for("with a cascade")
        # The server, the listener and the web server have the directory in their
        # environment.
        assert len(_processes_of(home)) > 3
        demo.signal(number)
        demo.wait()

        eventually(lambda: not _processes_of(home), f"the end: {_processes_of(home)}")
    eventually(lambda: not list(Path(home["TMPDIR"]).glob("walex-postgres-*")))


def _processes_of(home: dict[str, str]) -> list[str]:
    """Return the commands of all processes that have this temporary directory."""
    mark = f"TMPDIR={home['TMPDIR']}\0".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # the process has just exited
    return found
