"""Django's connection pools that are too small for a listener."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from pytest_django import Settings

from tests.zoo.models import Keeper
from walex_django import Event, on_insert
from walex_django.checks import check_settings


@pytest.fixture(autouse=True)
def alone(settings: Settings) -> None:
    """One stream on the database of the receivers, and one on another."""
    settings.WALEX = {"default": {}, "second": {"DATABASE": "second"}}


def found(
    monkeypatch: pytest.MonkeyPatch, pool: Any, alias: str = "default"
) -> list[str]:
    options = connections[alias].settings_dict.setdefault("OPTIONS", {})
    monkeypatch.setitem(options, "pool", pool)
    return [
        f"{each.msg} {each.hint}"
        for each in check_settings()
        if each.id == "walex_django.W056"
    ]


def function(event: Event) -> None:
    """Do nothing."""


def test_a_pool_needs_a_connection_per_stream_and_one_for_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(monkeypatch, {"min_size": 1, "max_size": 3}) == []
    (problem,) = found(monkeypatch, {"min_size": 1, "max_size": 2})
    assert "of the database 'default' has at most 2 connections" in problem
    assert "may hold 3:" in problem
    assert "set OPTIONS['pool'] to {'max_size': 3} or more" in problem
    # Its default is a fixed number of connections.
    assert found(monkeypatch, {"min_size": 2}) != []
    assert found(monkeypatch, True) == found(monkeypatch, {}) == []
    assert found(monkeypatch, False) == []


def test_only_the_streams_of_a_database_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, {"max_size": 2}, "second") == []
    (problem,) = found(monkeypatch, {"max_size": 1}, "second")
    assert "may hold 2:" in problem


@pytest.mark.usefixtures("own_handlers")
def test_a_pool_needs_ten_connections_for_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @on_insert(Keeper, stream="second", functions=[function])
    def handler(events: list[Event], **kwargs: Any) -> None:
        pass

    assert found(monkeypatch, {"max_size": 13}) == []
    (problem,) = found(monkeypatch, {"max_size": 12})
    assert "may hold 13:" in problem
    assert found(monkeypatch, {"max_size": 12}, "second") == [problem]
