"""A database that tests of a module write to one after the other."""

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
    """The test databases, in autocommit; what a module makes it takes away."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def atlas(transactional_db: None) -> Iterator[Atlas]:
    """A schema of the test's own, heard of as it is written."""
    with atlases.atlas() as atlas:
        yield atlas


@pytest.fixture(params=["live", "backlog"])
def told(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Atlas]:
    """The same, heard of as it is written, and heard of only afterwards."""
    with atlases.atlas(backlog=request.param == "backlog") as atlas:
        yield atlas


@pytest.fixture
def place(told: Atlas) -> Atlas:
    """A place; live and as backlog."""
    told.execute("CREATE TABLE atlas.place (id int PRIMARY KEY, name text, size int)")
    return told
