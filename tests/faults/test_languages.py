"""A server whose messages are not in English (lc_messages)."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import ONE, RETRYING, delivered, listening, stop, with_stream
from .proxy import Proxy
from .server import Server

# The programs of the tests speak only English. What the server calls an error is
# translated too.
_GERMAN = {
    "sorry, too many clients already": "tut mir leid, schon zu viele",
    "too many connections for role": "zu viele Verbindungen: Rolle",
    "remaining connection slots are reserved": "alle Verbindungen sind reserviert",
    "password authentication failed": "Passwort stimmt nicht",
    "the database system is shutting down": "das Datenbanksystem faehrt herunter",
    "FATAL": "FATAL",
}


@pytest.fixture
def german(server: Server, proxy: Proxy, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a listener whose server speaks German."""
    proxy.translations = {
        english.encode(): german.ljust(len(english)).encode()
        for english, german in _GERMAN.items()
    }
    url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    env = with_stream(environment, URL=url)
    return {**env, "ZOO_DATABASE_URL": url, "ZOO_SECOND_URL": url}


@pytest.mark.parametrize(
    "server",
    [{"max_connections": "4", "superuser_reserved_connections": "0"}],
    indirect=True,
)
def test_a_server_out_of_connections_is_waited_for(
    server: Server, german: dict[str, str], journal: Path
) -> None:
    with ExitStack() as others:
        connections = [others.enter_context(server.connect()) for _ in range(4)]
        with Process("walex_listen", *ONE, env=german) as listener:
            assert "schon zu viele" in listener.wait_for(RETRYING)
            connections[0].execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
            others.close()
            listener.wait_for("Quit with")
            eventually(lambda: delivered(journal) == ["Ada"])
            stop(listener)


def test_a_role_out_of_connections_is_waited_for(
    server: Server, german: dict[str, str], journal: Path
) -> None:
    server.execute(
        "CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'secret' CONNECTION LIMIT 0"
    )
    stream = json.loads(german["ZOO_STREAM"])
    stream["URL"] = stream["URL"].replace(
        f"postgres:{server.password}@", "keeper:secret@"
    )
    with Process(
        "walex_listen", *ONE, env={**german, "ZOO_STREAM": json.dumps(stream)}
    ) as listener:
        assert "zu viele Verbindungen" in listener.wait_for(RETRYING)
        server.execute("ALTER ROLE keeper CONNECTION LIMIT 10")
        listener.wait_for("Quit with")
        stop(listener)


def test_a_wrong_password_is_not_waited_for(
    server: Server, german: dict[str, str]
) -> None:
    stream = json.loads(german["ZOO_STREAM"])
    stream["URL"] = stream["URL"].replace(server.password, "wrong")
    with Process(
        "walex_listen", *ONE, env={**german, "ZOO_STREAM": json.dumps(stream)}
    ) as listener:
        assert listener.wait() == 1
    assert "Passwort stimmt nicht" in listener.output


def test_a_server_that_stops_is_waited_for(
    server: Server, german: dict[str, str], journal: Path
) -> None:
    with listening(german) as listener:
        server.stop("fast")
        listener.wait_for(RETRYING)
        server.start()
        server.write("after")
        eventually(lambda: delivered(journal) == ["after"])
        stop(listener)
