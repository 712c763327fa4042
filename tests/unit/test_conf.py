from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.checks import ERROR, WARNING
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from pytest_django import Settings

from walex_django.checks import check_settings
from walex_django.conf import parsers, reader
from walex_django.conf.configs import get_config, get_configs
from walex_django.conf.parsers import slot_name
from walex_django.conf.stream import StreamConfig


def check(settings: Settings, walex: object) -> tuple[str, str, str | None]:
    """Return id, message and hint of the only problem."""
    settings.WALEX = walex
    (found,) = check_settings()
    assert found.level == (WARNING if ".W" in str(found.id) else ERROR)
    return str(found.id), found.msg, found.hint


def test_stream_has_defaults() -> None:
    configs, problems = reader.read({"shop": {}})

    assert not problems
    assert configs["shop"] == StreamConfig(
        name="shop",
        database="default",
        url=None,
        publications=("shop_walex",),
        slot_name="shop_walex",
        durable_slot=False,
        subscriptions=("*",),
        max_batch=1000,
        status_interval=10,
        messages=(),
    )


def test_every_key_is_read() -> None:
    options = {
        "DATABASE": "default",
        "URL": "postgres://walex@db/shop",
        "PUBLICATION": ["shop_events", "crm_events"],
        "SLOT_NAME": "shop",
        "DURABLE_SLOT": True,
        "SUBSCRIPTIONS": ["auth.User", "auth.*", "legacy.audit_log", "legacy.*", "*"],
        "MAX_BATCH": 1,
        "STATUS_INTERVAL": 0.5,
        "MESSAGES": ["shop"],
    }
    configs, problems = reader.read({"default": options})

    assert not problems
    assert configs["default"] == StreamConfig(
        name="default",
        database="default",
        url="postgres://walex@db/shop",
        publications=("shop_events", "crm_events"),
        slot_name="shop",
        durable_slot=True,
        subscriptions=("auth.User", "auth.*", "legacy.audit_log", "legacy.*", "*"),
        max_batch=1,
        status_interval=0.5,
        messages=("shop",),
    )


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("shop", "shop"),
        ("Shop", "shop"),
        ("shop-walex", "shop_walex"),
        ("shop walex.2", "shop_walex_2"),
        ("Käse", "k_se"),
    ],
)
def test_slot_name_is_normalised(written: str, name: str) -> None:
    configs, _ = reader.read(
        {"named": {"SLOT_NAME": written}, written: {"PUBLICATION": "p"}}
    )

    assert configs["named"].slot_name == name
    assert (
        configs[written].slot_name == slot_name(f"{written}_walex") == f"{name}_walex"
    )


def test_slot_name_of_63_characters_is_the_longest() -> None:
    configs, problems = reader.read({"default": {"SLOT_NAME": "s" * 63}})
    assert not problems
    assert configs["default"].slot_name == "s" * 63

    configs, problems = reader.read({"default": {"SLOT_NAME": "s" * 64}})
    assert not configs
    assert [problem.id for problem in problems] == ["E003"]
    assert "['SLOT_NAME'] is longer than 63 characters" in problems[0].message


def test_invalid_stream_leaves_the_others_readable() -> None:
    configs, problems = reader.read({"shop": {}, "crm": {"MAX_BATCH": 0}, "hr": {}})

    assert list(configs) == ["shop", "hr"]
    assert [problem.id for problem in problems] == ["E003"]


def test_valid_settings_pass_the_check(settings: Settings) -> None:
    settings.WALEX = {"default": {"SUBSCRIPTIONS": ["auth.User", "auth.user", "a.b"]}}

    assert check_settings() == []


@pytest.mark.parametrize("walex", [None, {}])
def test_w001_no_stream(settings: Settings, walex: object) -> None:
    assert check(settings, walex) == (
        "walex_django.W001",
        "WALEX does not define any streams.",
        'Add WALEX = {"default": {"PUBLICATION": "…"}} to your settings.',
    )


def test_w001_missing_setting(settings: Settings) -> None:
    del settings.WALEX

    assert [found.id for found in check_settings()] == ["walex_django.W001"]


PRINTABLE = " at most 200 characters, all of them printable."


@pytest.mark.parametrize(
    ("walex", "message", "hint"),
    [
        (
            ["default"],
            "WALEX must be a dict.",
            'Write WALEX = {"default": {…}}, with the settings of each stream by name.',
        ),
        (
            {"default": "shop_events"},
            "WALEX['default'] must be a dict.",
            'Write WALEX[\'default\'] = {"PUBLICATION": "…"}.',
        ),
        (
            {1: {}},
            "WALEX[1]: the stream name must be a non-empty string.",
            "Give the stream a name, such as 'default'.",
        ),
        (
            {"": {}},
            "WALEX['']: the stream name must be a non-empty string.",
            "Give the stream a name, such as 'default'.",
        ),
        (
            {"a\nb": {}},
            r"WALEX['a\nb']: the stream name must have" + PRINTABLE,
            "Give the stream another name, such as 'default'.",
        ),
        (
            {"a" * 201: {}},
            f"WALEX['{'a' * 201}']: the stream name must have" + PRINTABLE,
            "Give the stream another name, such as 'default'.",
        ),
    ],
)
def test_e001_wrong_shape(
    settings: Settings, walex: object, message: str, hint: str
) -> None:
    assert check(settings, walex) == ("walex_django.E001", message, hint)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("PUBLCATION", "Did you mean 'PUBLICATION'?"),
        ("xyz", f"Choices are: {', '.join(parsers.KEYS)}."),
        (1, f"Choices are: {', '.join(parsers.KEYS)}."),
    ],
)
def test_e002_unknown_key(settings: Settings, key: object, hint: str) -> None:
    assert check(settings, {"default": {key: "x"}}) == (
        "walex_django.E002",
        f"WALEX['default'] has an unknown key {key!r}.",
        hint,
    )


A_STRING = "must be a non-empty string"
STRINGS = "must be a string or a list of strings"
A_COUNT = "must be an integer of at least 1"
SECONDS = "must be a number of seconds greater than 0"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATABASE", "", A_STRING),
        ("DATABASE", None, A_STRING),
        ("URL", 5432, A_STRING),
        ("URL", "postgres://[::1/shop", "is not a connection URL"),
        ("PUBLICATION", None, STRINGS),
        ("PUBLICATION", [1], STRINGS),
        ("PUBLICATION", [""], A_STRING),
        ("PUBLICATION", [], "must name at least one publication"),
        ("PUBLICATION", "ü" * 32, "contains a name longer than 63 bytes"),
        ("SLOT_NAME", "", A_STRING),
        ("SLOT_NAME", ["shop"], A_STRING),
        ("DURABLE_SLOT", 1, "must be True or False"),
        ("DURABLE_SLOT", "false", "must be True or False"),
        ("SUBSCRIPTIONS", "auth.User", "must be a list of strings"),
        ("SUBSCRIPTIONS", [None], A_STRING),
        ("MAX_BATCH", 0, A_COUNT),
        ("MAX_BATCH", 1.5, A_COUNT),
        ("MAX_BATCH", True, A_COUNT),
        ("STATUS_INTERVAL", 0, SECONDS),
        ("STATUS_INTERVAL", "10", SECONDS),
        ("STATUS_INTERVAL", True, SECONDS),
        ("STATUS_INTERVAL", float("nan"), SECONDS),
        ("STATUS_INTERVAL", float("inf"), SECONDS),
        ("SUBSCRIPTIONS", ["*.x"], "contains '*.x', which is not the name of"),
        ("MESSAGES", 1, STRINGS),
    ],
)
def test_e003_wrong_value(
    settings: Settings, key: str, value: object, message: str
) -> None:
    id_, found, _ = check(settings, {"default": {key: value}})

    assert id_ == "walex_django.E003"
    assert found.startswith(f"WALEX['default'][{key!r}] {message}")


def test_e003_no_subscriptions(settings: Settings) -> None:
    assert check(settings, {"default": {"SUBSCRIPTIONS": []}}) == (
        "walex_django.E003",
        (
            "WALEX['default']['SUBSCRIPTIONS'] is empty, so the stream would not"
            " deliver any changes."
        ),
        "Write ['*'] to subscribe to all tables.",
    )


@pytest.mark.parametrize("entry", ["User", "auth.", ".User", "."])
def test_e003_subscription_that_names_no_table(settings: Settings, entry: str) -> None:
    assert check(settings, {"default": {"SUBSCRIPTIONS": ["auth.*", entry]}}) == (
        "walex_django.E003",
        (
            f"WALEX['default']['SUBSCRIPTIONS'] contains {entry!r},"
            " which is not the name of a table."
        ),
        "Write 'app.Model', 'app.*', 'schema.table' or 'schema.*'.",
    )


def test_e004_unknown_database(settings: Settings) -> None:
    assert check(settings, {"default": {"DATABASE": "defualt"}}) == (
        "walex_django.E004",
        "WALEX['default']['DATABASE'] is 'defualt', which is not in DATABASES.",
        "Did you mean 'default'?",
    )


@pytest.fixture
def lite(settings: Settings) -> Iterator[str]:
    """Alias of a database that is not PostgreSQL."""
    settings.DATABASES["lite"] = {"ENGINE": "django.db.backends.sqlite3"}
    yield "lite"
    del connections["lite"]
    del settings.DATABASES["lite"]


def test_e004_not_postgresql(settings: Settings, lite: str) -> None:
    assert check(settings, {"default": {"DATABASE": lite}}) == (
        "walex_django.E004",
        "WALEX['default']: the database 'lite' is not PostgreSQL.",
        "Set DATABASE to an alias with the engine django.db.backends.postgresql.",
    )


def test_e005_shared_slot(settings: Settings) -> None:
    walex = {"shop": {"SLOT_NAME": "Walex"}, "crm": {"SLOT_NAME": "walex"}}

    assert check(settings, walex) == (
        "walex_django.E005",
        "The streams 'shop' and 'crm' share the slot 'walex'.",
        "Give each stream its own SLOT_NAME.",
    )


def test_e006_unknown_model(settings: Settings) -> None:
    subscriptions = ["auth.Usr", "auth.User", "auth.*"]

    assert check(settings, {"default": {"SUBSCRIPTIONS": subscriptions}}) == (
        "walex_django.E006",
        (
            "WALEX['default']['SUBSCRIPTIONS']: The app 'auth' has no model 'Usr';"
            " its models are Group, Permission, User."
        ),
        "Correct the name, or write 'app.*' for all models of the app.",
    )


def test_e006_has_one_message_for_each_wrong_model(settings: Settings) -> None:
    settings.WALEX = {"default": {"SUBSCRIPTIONS": ["auth.Usr", "auth.Grp"]}}

    assert [found.id for found in check_settings()] == ["walex_django.E006"] * 2


def test_invalid_settings_raise_an_error_with_all_problems(
    settings: Settings,
) -> None:
    settings.WALEX = {"shop": {"MAX_BATCH": 0}, "crm": {"PUBLCATION": "p"}}

    with pytest.raises(ImproperlyConfigured) as caught:
        get_config("shop")

    assert "WALEX['shop']['MAX_BATCH']" in str(caught.value)
    assert "WALEX['crm'] has an unknown key" in str(caught.value)
    assert "Did you mean 'PUBLICATION'?" in str(caught.value)


def test_missing_streams_raise_an_error(settings: Settings) -> None:
    settings.WALEX = {}

    with pytest.raises(ImproperlyConfigured, match="WALEX does not define any streams"):
        get_configs()


def test_unknown_stream_suggests_the_nearest_name(settings: Settings) -> None:
    settings.WALEX = {"default": {}, "shop": {}}

    with pytest.raises(ImproperlyConfigured) as caught:
        get_config("shoop")

    assert str(caught.value) == (
        "There is no stream \"shoop\" in WALEX. Did you mean 'shop'?"
    )


def test_changed_setting_is_read_again(settings: Settings) -> None:
    settings.WALEX = {"default": {"PUBLICATION": "before"}}
    before = get_config("default")
    assert get_config("default") is before

    settings.WALEX = {"default": {"PUBLICATION": "after"}}
    assert before.publications == ("before",)
    assert get_config("default").publications == ("after",)


def test_streams_cannot_be_changed_through_the_returned_dict(
    settings: Settings,
) -> None:
    settings.WALEX = {"default": {}}
    configs = get_configs()
    configs["other"] = configs["default"]

    assert list(get_configs()) == ["default"]


@pytest.mark.parametrize(
    "url", ["postgres://walex:hunter2@db/shop", "host=db password=hunter2"]
)
def test_password_is_not_in_the_repr_of_a_config(settings: Settings, url: str) -> None:
    settings.WALEX = {"default": {"URL": url}}
    config = get_config("default")

    assert config.connection_parameters()["password"] == "hunter2"
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://walex:hunter2%zz@db/shop",
        "postgres://walex:hunter2%00@db/shop",
        "postgres://walex:hunter2@[::1/shop",
        "postgres://walex:hunter2@db/shop?bogus=hunter2",
        "postgres://walex:hunter2@db/shop?sslmode",
        "postgres://walex:hunter2@db/shop?sslmode=a=hunter2",
        "postgres//walex:hunter2@db/shop",
        "mysql://walex:hunter2@db/shop",
        "host=db passwort=hunter2",
        "host=db password=x hunter2",
        "host=db password='hunter2",
    ],
)
def test_password_is_not_in_the_error_of_an_invalid_url(
    settings: Settings, url: str
) -> None:
    id_, message, hint = check(settings, {"default": {"URL": url}})
    with pytest.raises(ImproperlyConfigured) as caught:
        get_config("default")

    assert id_ == "walex_django.E003"
    printed = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in f"{message} {hint} {printed}"


def test_url_is_used_alone() -> None:
    configs, _ = reader.read({"default": {"URL": "postgres://walex@db:5433/shop"}})

    assert configs["default"].connection_parameters() == {
        "user": "walex",
        "host": "db",
        "port": "5433",
        "dbname": "shop",
    }


def test_without_url_only_libpq_options_of_the_database_are_used() -> None:
    configs, _ = reader.read({"default": {}})
    parameters: dict[str, Any] = configs["default"].connection_parameters()

    database = connections["default"].settings_dict
    assert parameters["dbname"] == database["NAME"]
    assert parameters["host"] == database["HOST"]
    assert not {"context", "cursor_factory", "prepare_threshold"} & set(parameters)


def test_default_slot_name_can_be_too_long(settings: Settings) -> None:
    assert check(settings, {"x" * 60: {"PUBLICATION": "p"}}) == (
        "walex_django.E003",
        f"WALEX['{'x' * 60}']['SLOT_NAME'] is longer than 63 characters.",
        "Choose a shorter name.",
    )


def test_message_prefix_may_be_any_text(settings: Settings) -> None:
    settings.WALEX = {"default": {"MESSAGES": ["", "x" * 100]}}

    assert get_config("default").messages == ("", "x" * 100)
