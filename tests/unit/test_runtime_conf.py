"""Stream settings that change at runtime."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from walex_django.conf import configs
from walex_django.conf.configs import (
    add_config,
    follow,
    get_config,
    override,
    remove_config,
    replace_config,
    written,
)
from walex_django.filters import Filter

FILTER = {"unwatched_fields": ["name"]}


@pytest.fixture(autouse=True)
def walex(settings: Settings) -> dict[str, dict[str, Any]]:
    """Two streams without runtime changes."""
    settings.WALEX = {
        "shop": {"SUBSCRIPTIONS": ["zoo.Keeper"], "MESSAGES": "audit"},
        "crm": {"URL": "postgres://walex:secret@crm/crm", "DURABLE_SLOT": True},
    }
    walex: dict[str, dict[str, Any]] = settings.WALEX
    return walex


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module, which the test has to write."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "zoo_handlers.py"
    sys.modules.pop("zoo_handlers", None)


def test_entries_are_added_once_and_in_order() -> None:
    add_config("shop", "SUBSCRIPTIONS", ["zoo.Animal", "zoo.Keeper"])
    add_config("shop", "SUBSCRIPTIONS", "legacy.*")
    add_config("shop", "MESSAGES", ("jobs",))

    config = get_config("shop")
    assert config.subscriptions == ("zoo.Keeper", "zoo.Animal", "legacy.*")
    assert config.messages == ("audit", "jobs")
    assert get_config("crm").subscriptions == ("*",)


def test_missing_settings_start_from_their_defaults() -> None:
    add_config("crm", "SUBSCRIPTIONS", "zoo.Keeper")
    add_config("crm", "MODULES", "tests.copies")
    replace_config("crm", "MAX_BATCH", 7)
    replace_config("crm", "STATUS_INTERVAL", 3)

    config = get_config("crm")
    assert config.subscriptions == ("*", "zoo.Keeper")
    assert config.modules == ("tests.copies",)
    assert (config.max_batch, config.status_interval) == (7, 3)


def test_entries_are_removed() -> None:
    add_config("shop", "SUBSCRIPTIONS", ["zoo.Animal", "zoo.Building"])
    remove_config("shop", "SUBSCRIPTIONS", ["zoo.Keeper", "zoo.Building"])
    remove_config("shop", "MESSAGES", "audit")

    config = get_config("shop")
    assert (config.subscriptions, config.messages) == (("zoo.Animal",), ())


def test_filters_are_added_and_removed_by_table() -> None:
    add_config("shop", "FILTERS", {"zoo.Keeper": FILTER, "zoo.*": FILTER})
    add_config("shop", "FILTERS", {"zoo.Keeper": {"changed": ["name"]}})
    remove_config("shop", "FILTERS", "zoo.*")

    assert get_config("shop").filters == {"zoo.Keeper": Filter(changed=("name",))}


def test_follow_applies_only_the_changed_settings() -> None:
    config = get_config("shop")
    elsewhere = replace(config, slot_name="elsewhere", max_batch=3)
    assert follow(elsewhere) is elsewhere

    add_config("shop", "SUBSCRIPTIONS", "zoo.Animal")

    assert follow(elsewhere) == replace(
        elsewhere, subscriptions=("zoo.Keeper", "zoo.Animal")
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda: add_config("shpo", "MESSAGES", "a"), "Did you mean 'shop'?"),
        (lambda: add_config("shop", "MESSAGE", "a"), "Did you mean 'MESSAGES'?"),
        (lambda: add_config("shop", "MAX_BATCH", 5), "MAX_BATCH is not a list."),
        (lambda: replace_config("shop", "DATABASE", "second"), "restart the listener."),
        (lambda: replace_config("shop", "MAX_BATCH", 0), "at least 1, not 0"),
        (lambda: replace_config("shop", "ON_ERROR", "parc"), "'park', 'stop', 'skip'"),
        (lambda: add_config("shop", "MESSAGES", 5), "list of strings, not 5"),
        (
            lambda: add_config("shop", "SUBSCRIPTIONS", "Keeper"),
            "is not the name of a t",
        ),
        (lambda: add_config("shop", "SUBSCRIPTIONS", "zoo.Kepper"), "no model 'Kepper"),
        (lambda: remove_config("shop", "SUBSCRIPTIONS", "zoo.Keepr"), "'zoo.Keeper'?"),
        (lambda: remove_config("shop", "SUBSCRIPTIONS", "zoo.Keeper"), "is empty"),
        (lambda: add_config("shop", "FILTERS", ["zoo.Keeper"]), "must be a dict"),
        (lambda: remove_config("shop", "FILTERS", {}), "list of strings, not {}"),
        (
            lambda: add_config("shop", "FILTERS", {"zoo.Keeper": {"changd": []}}),
            "Did you mean 'changed'?",
        ),
        (
            lambda: add_config("shop", "FILTERS", {"zoo.Keeper": {"changed": "nam"}}),
            "no field 'nam'",
        ),
        (
            lambda: add_config("shop", "FILTERS", {"zoo.*": {"where": "zoo.no.way"}}),
            "where: No module named 'zoo'",
        ),
        (
            lambda: add_config("shop", "MODULES", "zoo.walex"),
            "No module named 'zoo.walex'",
        ),
    ],
)
def test_invalid_change_is_refused_and_changes_nothing(
    change: Any, problem: str
) -> None:
    before, generation = get_config("shop"), configs.generation

    with pytest.raises(ImproperlyConfigured) as refused:
        change()

    assert problem in str(refused.value)
    assert (get_config("shop"), configs.generation) == (before, generation)
    assert written("shop")["MESSAGES"] == "audit"


@pytest.mark.parametrize("url", ["postgres//walex:secret@crm", 5, "secret"])
def test_refused_url_is_not_shown(url: object) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        replace_config("crm", "URL", url)

    assert "secret" not in str(refused.value)
    assert "WALEX['crm']['URL']" in str(refused.value)


def test_module_that_fails_to_import_is_refused(module: Path) -> None:
    module.write_text("1 / 0")

    with pytest.raises(ImproperlyConfigured, match=r"'MODULES'.*ZeroDivisionError"):
        add_config("shop", "MODULES", "zoo_handlers")

    assert get_config("shop").modules == ()


def test_module_may_read_the_settings_while_it_is_added(module: Path) -> None:
    """Even from another thread that it waits for."""
    module.write_text(
        "from threading import Thread\n"
        "from walex_django.conf import get_configs\n"
        "reader = Thread(target=get_configs, daemon=True)\n"
        "reader.start()\n"
        "reader.join(20)\n"
        "assert not reader.is_alive()\n"
    )

    add_config("shop", "MODULES", "zoo_handlers")

    assert get_config("shop").modules == ("zoo_handlers",)


def test_concurrent_changes_are_not_lost() -> None:
    names = [f"part{number}" for number in range(20)]
    threads = [
        Thread(target=add_config, args=("shop", "MESSAGES", name)) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(get_config("shop").messages) == sorted(["audit", *names])


def test_override_replaces_the_previous_override() -> None:
    override("shop", {"MESSAGES": ["kept"], "MAX_BATCH": 5})
    override("shop", {"MAX_BATCH": 6})

    config = get_config("shop")
    assert (config.messages, config.max_batch) == (("audit",), 6)
    override("shop", {})
    assert get_config("shop").max_batch == 1000


def test_runtime_changes_survive_a_reconnection() -> None:
    """Each connection applies the stored settings again."""
    override("shop", {"MESSAGES": ["kept"]})
    add_config("shop", "MESSAGES", "local")
    replace_config("shop", "MAX_BATCH", 5)

    override("shop", {"MESSAGES": ["kept"]})
    assert get_config("shop").messages == ("kept", "local")
    override("shop", {"MESSAGES": ["newer"]})
    config = get_config("shop")
    assert (config.messages, config.max_batch) == (("newer",), 5)


@pytest.mark.parametrize("key", ["DATABASE", "SLOT_NAME", "NONSENSE"])
def test_override_refuses_settings_that_cannot_change(key: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^{key} can't be changed"):
        override("shop", {key: "second"})

    assert get_config("shop").database == "default"


def test_new_settings_discard_runtime_changes(settings: Settings) -> None:
    add_config("shop", "MESSAGES", "jobs")
    settings.WALEX = {"shop": {"MESSAGES": ["audit"]}}

    assert get_config("shop").messages == ("audit",)
    assert follow(get_config("shop")) is get_config("shop")


def test_changes_of_several_streams_coexist() -> None:
    add_config("shop", "MESSAGES", "jobs")
    replace_config("crm", "MAX_BATCH", 5)
    replace_config("shop", "MAX_BATCH", 6)

    assert get_config("shop").messages == ("audit", "jobs")
    assert get_config("shop").max_batch == 6
    assert get_config("crm").max_batch == 5
