"""Settings that require a durable slot."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import Settings

from walex_django.checks import check_settings
from walex_django.conf import reader


@pytest.mark.parametrize("key", ["ATOMIC", "FAILOVER"])
def test_e007_needs_a_durable_slot(settings: Settings, key: str) -> None:
    settings.WALEX = {"default": {key: True}}

    (found,) = check_settings()
    assert found.id == "walex_django.E007"
    assert found.msg.startswith(f"WALEX['default'][{key!r}] requires a durable slot")
    assert found.hint is not None
    assert "'DURABLE_SLOT': True" in found.hint
    assert repr(key) in found.hint


def test_e007_is_reported_for_each_key(settings: Settings) -> None:
    settings.WALEX = {"default": {"ATOMIC": True, "FAILOVER": True}}

    assert [found.id for found in check_settings()] == ["walex_django.E007"] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"ATOMIC": True, "FAILOVER": True, "DURABLE_SLOT": True},
        {"ATOMIC": False, "FAILOVER": False},
    ],
)
def test_e007_is_not_reported_for_valid_settings(options: dict[str, Any]) -> None:
    configs, problems = reader.read({"default": options})

    assert not problems
    config = configs["default"]
    assert (config.atomic, config.failover) == (options["ATOMIC"], options["FAILOVER"])


@pytest.mark.parametrize("key", ["ATOMIC", "FAILOVER"])
def test_e003_is_reported_for_other_types(settings: Settings, key: str) -> None:
    settings.WALEX = {"default": {key: "yes", "DURABLE_SLOT": True}}

    (found,) = check_settings()
    assert found.id == "walex_django.E003"
    assert found.msg == f"WALEX['default'][{key!r}] must be True or False, not 'yes'."
