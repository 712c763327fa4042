"""Fixtures of streams that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from example_project.postgres import Postgres
from tests.copies import Copy, Original, Originals
from walex_django.conf.stream import StreamConfig
from walex_django.handlers import registry

from .stream import OwnStream, Stream
from .test_mistakes import ONE, at


@pytest.fixture
def atomic(durable: StreamConfig) -> StreamConfig:
    """An ATOMIC stream of keepers, which does not deliver what receivers write."""
    return replace(
        durable,
        atomic=True,
        subscriptions=("zoo.Keeper",),
        max_retries=1,
        retry_backoff=0.001,
    )


@pytest.fixture
def stream(durable: StreamConfig, environment: dict[str, str]) -> Stream:
    """The stream on the suite's server, not yet read by any listener."""
    return Stream(environment)


@pytest.fixture(scope="session")
def original(originals: Originals) -> Original:
    """A stopped server where the stream is set up, to be copied."""

    def prepare(server: Postgres) -> None:
        stream = Stream(at(server, {}))
        stream.run("migrate", "--verbosity=0")
        stream.run("walex_setup", *ONE)

    return originals.get("integration", prepare)


@pytest.fixture
def own_stream(
    request: pytest.FixtureRequest,
    original: Original,
    programs: Path | None,
    environment: dict[str, str],
) -> Iterator[OwnStream]:
    """The stream on its own server, with the settings from the test's parameters."""
    settings = getattr(request, "param", {})
    with Copy(original, bin=programs, settings=settings) as server:
        yield OwnStream(at(server, environment), server)


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Unregister the handlers that the test registers."""
    before = set(registry.handlers)
    yield
    for key, handler in list(registry.handlers.items()):
        if key not in before:
            registry.unregister(handler.function)
