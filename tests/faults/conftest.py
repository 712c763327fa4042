"""Fixtures: a server that tests can kill, environments of its listeners, a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from example_project.postgres import Postgres
from tests.copies import Original, Originals
from tests.process import Process

from .ledger import Ledger
from .listener import ONE, environment_on
from .proxy import Proxy
from .server import Server

_UNPUBLISHED = """
CREATE TABLE zoo_effect (
    id bigserial PRIMARY KEY, event_id text NOT NULL, label text NOT NULL);
CREATE TABLE zoo_mark (mark text PRIMARY KEY)
"""


@pytest.fixture(scope="session")
def original(originals: Originals) -> Original:
    """A stopped server with the zoo's tables and stream, to be copied."""

    def prepare(postgres: Postgres) -> None:
        for command in (["migrate", "--verbosity=0"], ["walex_setup", *ONE]):
            with Process(*command, env=environment_on(postgres)) as process:
                assert process.wait() == 0, process.output
        with psycopg.connect(postgres.url()) as connection:
            connection.execute(_UNPUBLISHED)

    return originals.get("faults", prepare)


@pytest.fixture
def server(
    request: pytest.FixtureRequest, original: Original, programs: Path | None
) -> Iterator[Server]:
    """A server with the settings from the test's parameters."""
    settings = {"wal_sender_timeout": "3s", **getattr(request, "param", {})}
    with Server(original, bin=programs, settings=settings) as server:
        yield server


@pytest.fixture
def environment(server: Server, tmp_path: Path) -> dict[str, str]:
    """The environment of a listener process that writes a journal."""
    return {**environment_on(server), "ZOO_JOURNAL": str(tmp_path / "journal")}


@pytest.fixture
def loaded(server: Server, tmp_path: Path) -> dict[str, str]:
    """The environment of a listener under heavy load, with a ledger as its journal."""
    return {**environment_on(server), "ZOO_LEDGER": str(tmp_path / "ledger")}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The events delivered by listener processes under load."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy between listener and server."""
    with Proxy(server.port) as proxy:
        yield proxy
