"""A server that may be killed, the environment of listeners on it, and a proxy."""

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
    """A stopped server with the zoo and its stream, for copies."""

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
    """A server with the settings that the test is parametrized with."""
    settings = {"wal_sender_timeout": "3s", **getattr(request, "param", {})}
    with Server(original, bin=programs, settings=settings) as server:
        yield server


@pytest.fixture
def environment(server: Server, tmp_path: Path) -> dict[str, str]:
    """What a listener process needs: the stream's server, and a journal."""
    return {**environment_on(server), "ZOO_JOURNAL": str(tmp_path / "journal")}


@pytest.fixture
def loaded(server: Server, tmp_path: Path) -> dict[str, str]:
    """The same for heavy load: a ledger in place of the journal."""
    return {**environment_on(server), "ZOO_LEDGER": str(tmp_path / "ledger")}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """What listener processes under load heard."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A network between listener and server."""
    with Proxy(server.port) as proxy:
        yield proxy
