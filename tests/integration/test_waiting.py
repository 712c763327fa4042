"""A starting listener waits for temporary problems to pass, and only for those."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack, suppress

import psycopg
import pytest

from tests.process import Process, eventually
from walex_django.conf.stream import StreamConfig
from walex_django.replication.connection import may_pass

from .stream import OwnStream, Stream
from .test_mistakes import ONE, at

pytestmark = pytest.mark.django_db(transaction=True)

TRYING = "Retrying until it succeeds."


def waiting(env: dict[str, str]) -> Process:
    """Return a listener that waits for its server."""
    listener = Process("walex_listen", *ONE, env=env)
    listener.wait_for(TRYING)
    return listener


def assert_starts(listener: Process, stream: Stream) -> None:
    """Assert that a listener starts streaming and reported the wait once."""
    listener.wait_for("Quit with")
    stream.write("Ada")
    eventually(lambda: stream.delivered() == ["Ada"])
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert listener.output.count(TRYING) == 1
    assert TRYING in listener.lines[0]
    assert listener.lines[1].startswith("walex_django ")


@pytest.mark.parametrize(
    "said",
    [
        "Connection refused",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is not yet accepting connections",
        "FATAL:  the database system is shutting down",
    ],
)
def test_a_server_that_is_ready_right_after_the_attempt_is_waited_for(
    config: StreamConfig, said: str
) -> None:
    parameters = config.connection_parameters()

    assert may_pass(parameters, psycopg.OperationalError(said))
    refusal = 'FATAL:  role "nobody" does not exist'
    rejected = {**parameters, "user": "nobody"}
    assert not may_pass(rejected, psycopg.OperationalError(refusal))


class TestAbsentServer:
    """The server is started after the listener."""

    def test_listener_starts_once_the_server_is_up(self, own_stream: OwnStream) -> None:
        own_stream.server.stop()
        with waiting(own_stream.env) as listener:
            assert "Cannot connect to PostgreSQL" in listener.lines[0]
            own_stream.server.start()
            assert_starts(listener, own_stream)

    def test_listener_ends_when_the_server_refuses_it(
        self, own_stream: OwnStream
    ) -> None:
        own_stream.server.stop()
        with waiting(
            at(own_stream.server, own_stream.env, password="wr0ng")
        ) as listener:
            own_stream.server.start()
            assert listener.wait() == 1
        assert len(listener.lines) == 2
        assert listener.lines[1].startswith("CommandError: default: ")
        assert "password authentication failed" in listener.lines[1]

    def test_waiting_listener_can_be_stopped(self, own_stream: OwnStream) -> None:
        own_stream.server.stop()
        with waiting(own_stream.env) as listener:
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0
        assert len(listener.lines) == 1


class TestFullServer:
    """The server has no free connection."""

    @pytest.mark.parametrize("own_stream", [{"max_wal_senders": "1"}], indirect=True)
    def test_listener_waits_for_a_walsender(self, own_stream: Stream) -> None:
        url = own_stream.env["ZOO_DATABASE_URL"]
        with psycopg.connect(f"{url}?replication=database"):
            listener = waiting(own_stream.env)
        with listener:
            assert "max_wal_senders" in listener.lines[0]
            assert_starts(listener, own_stream)

    @pytest.mark.parametrize("own_stream", [{"max_connections": "8"}], indirect=True)
    def test_listener_waits_for_a_connection(self, own_stream: Stream) -> None:
        url = own_stream.env["ZOO_DATABASE_URL"]
        with ExitStack() as stack:
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(psycopg.connect(url))
            listener = waiting(own_stream.env)
        with listener:
            assert "too many clients" in listener.lines[0]
            assert_starts(listener, own_stream)


@pytest.fixture
def wrong_login(own_stream: OwnStream) -> dict[str, str]:
    """Replication can connect, but the ORM has a wrong password."""
    env = at(own_stream.server, own_stream.env, password="wr0ng")
    return {**env, "ZOO_STREAM": json.dumps({"URL": own_stream.server.url()})}


def test_wrong_password_of_the_orm_ends_the_listener(
    wrong_login: dict[str, str],
) -> None:
    with Process("walex_listen", *ONE, env=wrong_login) as listener:
        line = listener.wait_for("password authentication failed")
        assert line.startswith("CommandError: default: ")
        assert listener.wait() == 1
