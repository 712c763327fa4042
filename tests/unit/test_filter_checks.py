"""Checks of filters, modules and the streams that handlers and receivers name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from tests.zoo.models import Keeper, Temperature
from walex_django import Event, on_insert
from walex_django.checks import check_settings
from walex_django.handlers import registry
from walex_django.signals import post_db_insert, post_db_transaction


@pytest.fixture
def own_handler() -> Iterator[None]:
    """Unregister the test's handler."""
    yield
    registry.unregister(keepers)


def keepers(events: list[Event]) -> None:
    """Do nothing, as a handler."""


def problems(settings: Settings, **options: Any) -> list[tuple[str, str]]:
    """Return the id and message of each problem in a stream's settings."""
    settings.WALEX = {"default": options}
    return [(str(found.id)[-4:], str(found.msg)) for found in check_settings()]


@pytest.mark.parametrize(
    ("table", "options", "problem"),
    [
        (
            "zoo.Kepper",
            {"changed": ["name"]},
            ("E006", "WALEX['default']['FILTERS']: The app 'zoo' has no model "),
        ),
        (
            "zoo.Keeper",
            {"unwatched_fields": ["nmae"]},
            ("E008", "WALEX['default']['FILTERS']['zoo.Keeper']: zoo.Keeper has no fi"),
        ),
        (
            "zoo.Animal",
            {"unwatched_records": {"weight": "heavy"}},
            (
                "E008",
                "WALEX['default']['FILTERS']['zoo.Animal']: 'heavy' is not a valid",
            ),
        ),
        (
            "zoo.Animal",
            {"unwatched_records": {"tame": 5}},
            (
                "E008",
                "WALEX['default']['FILTERS']['zoo.Animal']: 5 is not a valid value fo",
            ),
        ),
        (
            "zoo.*",
            {"unwatched_records": {"names": "Ada"}},
            ("E008", "WALEX['default']['FILTERS']['zoo.*']: "),
        ),
        (
            "*",
            {"unwatched_records": {"event_subscribe": False}},
            ("E008", "WALEX['default']['FILTERS']['*']: "),
        ),
        (
            "public.zoo_keeper",
            {"sensitive_fields": ["nmae"]},
            ("E008", "WALEX['default']['FILTERS']['public.zoo_keeper']: zoo.Keeper ha"),
        ),
        (
            "public.*",
            {"sensitive_fields": ["name", "nmae"]},
            ("E008", "WALEX['default']['FILTERS']['public.*']: "),
        ),
        (
            "zoo.Keeper",
            {"where": "tests.zoo.nowhere.is_it"},
            ("E009", "WALEX['default']['FILTERS']['zoo.Keeper']: where: No module"),
        ),
    ],
)
def test_invalid_filter(
    settings: Settings, table: str, options: Any, problem: tuple[str, str]
) -> None:
    ((id, message),) = problems(settings, FILTERS={table: options})
    assert (id, message[: len(problem[1])]) == problem


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ("zoo.Keeper", {"unwatched_records": {"name": "Ada", "id": "5"}}),
        ("zoo.Animal_keepers", {"changed": ["keeper", "animal_id"]}),
        ("zoo.Visit", {"changed": ["paid", "price paid"]}),
        ("zoo.Animal", {"unwatched_records": {"comfort": Temperature(5)}}),
        ("zoo.Animal", {"unwatched_records": {"weight": None}}),
        ("zoo.*", {"unwatched_fields": ["height"]}),
        ("zoo.*", {"sensitive_fields": ["height", "price paid"]}),
        ("public.zoo_visit", {"sensitive_fields": ["paid"]}),
        ("public.zoo_visit", {"sensitive_fields": ["price paid"]}),
        ("public.*", {"sensitive_fields": ["paid", "height"]}),
        # These are checked against the server.
        ("legacy.audit_log", {"unwatched_fields": ["whatever"]}),
        ("legacy.zoo_keeper", {"sensitive_fields": ["whatever"]}),
        ("legacy.*", {"where": "tests.zoo.walex.note"}),
    ],
)
def test_valid_filter(settings: Settings, table: str, options: Any) -> None:
    assert problems(settings, FILTERS={table: options}) == []


def test_e009_missing_modules(settings: Settings) -> None:
    modules = ["tests.zoo.walex", "tests.zoo.nowhere", "nowhere.at_all", ""]
    assert problems(settings, MODULES=modules) == [
        ("E009", f"WALEX['default']['MODULES']: No module named {name!r}.")
        for name in modules[1:]
    ]


@pytest.mark.usefixtures("own_handler")
def test_e010_handler_of_an_unknown_stream(settings: Settings) -> None:
    on_insert(Keeper, stream="crm")(keepers)
    ((id, message),) = problems(settings)
    assert id == "E010"
    assert message.startswith(f"{__file__}:")
    assert message.endswith(
        ", @on_insert: the handler names the stream 'crm', which is not in WALEX."
    )
    settings.WALEX = {"default": {}, "crm": {}}
    assert check_settings() == []


def test_e010_receiver_of_an_unknown_stream(settings: Settings) -> None:
    def receiver(**kwargs: Any) -> None:
        pass

    post_db_insert.connect(receiver, sender=Keeper, stream="default")
    post_db_transaction.connect(receiver, stream="crm")
    ((id, message),) = problems(settings)
    assert id == "E010"
    assert message.startswith("A receiver of post_db_transaction names the stream")
    assert post_db_transaction.disconnect(receiver, stream="crm")
    assert problems(settings) == []
    assert post_db_insert.disconnect(receiver, sender=Keeper, stream="default")
