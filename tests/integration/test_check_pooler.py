"""Checks report a pooler between a stream and its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from django.db import connections

from example_project.guard import end
from tests.process import Process, eventually
from walex_django.conf.stream import StreamConfig

from .checking import checked
from .test_context_pooled import free_port, responds, start_pgbouncer

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "second"]),
    pytest.mark.services("pgbouncer"),
]

URL = "Set URL in the stream's settings to the address of the PostgreSQL server"


@contextmanager
def pooled(
    environment: dict[str, str], *configuration: str
) -> Iterator[dict[str, str]]:
    """Provide the environment of a process that connects through PgBouncer."""
    with TemporaryDirectory(prefix="walex-pgbouncer-") as home:
        port = free_port()
        pooler = start_pgbouncer(
            Path(home), port, connections["default"].settings_dict, *configuration
        )
        try:
            eventually(lambda: responds(port, pooler), "a response from pgbouncer")
            name = connections["default"].settings_dict["NAME"]
            url = f"postgres://zoo@127.0.0.1:{port}/{name}"
            yield {**environment, "ZOO_DATABASE_URL": url}
        finally:
            end(pooler)


def bypass_pooler(environment: dict[str, str], env: dict[str, str]) -> dict[str, str]:
    """Follow the hint: connect the stream to the server itself."""
    stream = json.dumps({"URL": environment["ZOO_DATABASE_URL"]})
    return {**env, "ZOO_STREAM": stream}


def test_w021_pooler_that_refuses_the_connection(
    durable: StreamConfig, environment: dict[str, str]
) -> None:
    with pooled(environment) as env:
        found = checked(env)
        assert found.keys() == {"W021"}
        assert "unsupported startup parameter" in found["W021"].message
        assert URL in found["W021"].hint
        with Process("walex_setup", "--stream", "default", env=env) as setup:
            assert setup.wait() == 1
        assert found["W021"].hint in setup.lines[-1]

        assert "W021" not in checked(bypass_pooler(environment, env))


def test_w021_and_w027_pooler_that_accepts_sessions(
    durable: StreamConfig, environment: dict[str, str]
) -> None:
    with pooled(environment, "ignore_startup_parameters = options") as env:
        found = checked(env)
        assert found["W021"].message.startswith(
            "A pooler or proxy answers instead of the server itself"
        )
        assert URL in found["W021"].hint
        assert "replication" in found["W027"].message
        assert URL in found["W027"].hint

        assert not {"W021", "W027"} & checked(bypass_pooler(environment, env)).keys()
