"""A server that is to take writes is waited for while it does not."""

from __future__ import annotations

import json

import pytest

from .stream import OwnStream
from .test_waiting import starts, waiting

pytestmark = pytest.mark.django_db(transaction=True)

WRITABLE = "?target_session_attrs=read-write"


def set_read_only(stream: OwnStream, value: str) -> None:
    """Let the sessions that begin from now on be read-only, or not."""
    stream.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    stream.server.run("pg_ctl", "reload", "-D", str(stream.server.data))


def of_the_stream(stream: OwnStream) -> dict[str, str]:
    """Return the environment with several hosts in URL, of which one is there."""
    url = stream.server.url().replace("@", "@127.0.0.1:1,") + WRITABLE
    return {**stream.env, "ZOO_STREAM": json.dumps({"URL": url})}


def of_the_models(stream: OwnStream) -> dict[str, str]:
    """Return the environment with the demand on the ORM's connections alone."""
    url = stream.server.url()
    return {
        **stream.env,
        "ZOO_DATABASE_URL": url + WRITABLE,
        "ZOO_STREAM": json.dumps({"URL": url}),
    }


@pytest.mark.parametrize("demand", [of_the_stream, of_the_models])
def test_it_begins_when_the_server_takes_writes(
    own_stream: OwnStream, demand: object
) -> None:
    assert callable(demand)
    set_read_only(own_stream, "on")
    with waiting(demand(own_stream)) as listener:
        assert "Cannot connect to " in listener.lines[0]
        assert "read-only" in listener.lines[0]
        set_read_only(own_stream, "off")
        starts(listener, own_stream)
