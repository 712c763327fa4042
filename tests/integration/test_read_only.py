"""A listener waits while a server that must accept writes is read-only."""

from __future__ import annotations

import json

import pytest

from .stream import OwnStream
from .test_waiting import assert_starts, waiting

pytestmark = pytest.mark.django_db(transaction=True)

WRITABLE = "?target_session_attrs=read-write"


def set_read_only(stream: OwnStream, value: str) -> None:
    """Make new sessions read-only, or not."""
    stream.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    stream.server.run("pg_ctl", "reload", "-D", str(stream.server.data))


def stream_requires_writes(stream: OwnStream) -> dict[str, str]:
    """Return the environment with several hosts in URL, only one of which exists."""
    url = stream.server.url().replace("@", "@127.0.0.1:1,") + WRITABLE
    return {**stream.env, "ZOO_STREAM": json.dumps({"URL": url})}


def orm_requires_writes(stream: OwnStream) -> dict[str, str]:
    """Return the environment with the requirement only on the ORM's connections."""
    url = stream.server.url()
    return {
        **stream.env,
        "ZOO_DATABASE_URL": url + WRITABLE,
        "ZOO_STREAM": json.dumps({"URL": url}),
    }


@pytest.mark.parametrize("make_env", [stream_requires_writes, orm_requires_writes])
def test_listener_starts_once_the_server_accepts_writes(
    own_stream: OwnStream, make_env: object
) -> None:
    assert callable(make_env)
    set_read_only(own_stream, "on")
    with waiting(make_env(own_stream)) as listener:
        assert "Cannot connect to " in listener.lines[0]
        assert "read-only" in listener.lines[0]
        set_read_only(own_stream, "off")
        assert_starts(listener, own_stream)
