"""Fixtures for the databases and tables of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

from . import atlas as atlases
from .atlas import Atlas


@pytest.fixture(scope="module")
def database(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """The test databases in autocommit mode; a module drops what it creates."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def atlas(transactional_db: None) -> Iterator[Atlas]:
    """A schema for one test, whose changes are delivered live."""
    with atlases.atlas() as atlas:
        yield atlas


@pytest.fixture(params=["live", "backlog"])
def any_atlas(
    request: pytest.FixtureRequest, transactional_db: None
) -> Iterator[Atlas]:
    """A schema for one test, with changes delivered live or as a backlog."""
    with atlases.atlas(backlog=request.param == "backlog") as atlas:
        yield atlas


@pytest.fixture
def place(any_atlas: Atlas) -> Atlas:
    """A schema with the table ``place``; live or as a backlog."""
    any_atlas.execute(
        "CREATE TABLE atlas.place (id int PRIMARY KEY, name text, size int)"
    )
    return any_atlas
