"""walex_setup and walex_teardown, and the errors that all commands share."""

from __future__ import annotations

from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError
from django.db import connections

from walex_django.conf.stream import StreamConfig
from walex_django.replication import publications, slots

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])


@pytest.fixture
def not_set_up(sql: psycopg.Connection[Any], settings: Any) -> None:
    """Make sure that neither the publication nor the slot exists."""
    settings.WALEX = {"default": settings.WALEX["default"]}
    run("walex_teardown", "--no-input")


def run(*arguments: str) -> str:
    """Run a command and return what it printed."""
    output = StringIO()
    call_command(*arguments, stdout=output, stderr=output)
    return output.getvalue()


@pytest.mark.usefixtures("not_set_up")
def test_setup_creates_publication_then_slot(sql: psycopg.Connection[Any]) -> None:
    *made, start = run("walex_setup").splitlines()
    assert made == [
        'default: create the publication "zoo_events"',
        'default: create the slot "zoo_walex"',
    ]
    assert start.startswith("default: delivers changes from LSN ")

    tables = publications.tables(sql, ["zoo_events"])
    assert list(map(str, tables)) == [
        "legacy.audit_log",
        "legacy.nobody_knows",
        "public.zoo_animal",
        "public.zoo_animal_keepers",
        "public.zoo_aviary",
        "public.zoo_building",
        "public.zoo_keeper",
        "public.zoo_oldmascot",
        "public.zoo_visit",
    ]
    slot = slots.find(sql, "zoo_walex")
    assert slot is not None
    assert (slot.plugin, slot.temporary) == ("pgoutput", False)
    run("walex_teardown", "--no-input")


@pytest.mark.usefixtures("not_set_up")
def test_second_setup_does_nothing() -> None:
    run("walex_setup")

    assert run("walex_setup") == "default: nothing to do\n"
    run("walex_teardown", "--no-input")


@pytest.mark.usefixtures("not_set_up")
def test_setup_adds_missing_tables(
    sql: psycopg.Connection[Any],
) -> None:
    run("walex_setup")
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper, zoo_animal")

    assert run("walex_setup") == (
        'default: add to the publication "zoo_events": public.zoo_animal,'
        " public.zoo_keeper\n"
    )
    assert run("walex_setup") == "default: nothing to do\n"
    run("walex_teardown", "--no-input")


@pytest.mark.usefixtures("not_set_up")
def test_dry_run_prints_sql_that_does_the_same(sql: psycopg.Connection[Any]) -> None:
    printed = run("walex_setup", "--dry-run")

    assert slots.find(sql, "zoo_walex") is None
    assert publications.existing(sql, ["zoo_events"]) == set()
    sql.execute(printed.split(";\n")[0])
    sql.execute(printed.split(";\n")[1])
    assert run("walex_setup") == "default: nothing to do\n"
    dropped = run("walex_teardown", "--dry-run")
    assert dropped.splitlines() == [
        "SELECT pg_catalog.pg_drop_replication_slot('zoo_walex');",
        'DROP PUBLICATION "zoo_events";',
    ]
    run("walex_teardown", "--no-input")


@pytest.mark.usefixtures("not_set_up")
def test_several_publications_share_the_tables(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    stream = {**settings.WALEX["default"], "PUBLICATION": ["zoo_one", "zoo_two"]}
    settings.WALEX = {"default": stream}
    sql.execute("CREATE PUBLICATION zoo_two FOR TABLE zoo_keeper")

    run("walex_setup")

    one = publications.tables(sql, ["zoo_one"])
    assert ("public", "zoo_animal") in one
    assert ("public", "zoo_keeper") not in one
    run("walex_teardown", "--no-input")
    assert publications.existing(sql, ["zoo_one", "zoo_two"]) == set()


@pytest.mark.usefixtures("not_set_up")
def test_teardown_keeps_publication_that_a_stream_with_url_reads(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    stream = settings.WALEX["default"]
    at = connections["default"].settings_dict
    url = "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**at)
    other = {**stream, "SLOT_NAME": "other_walex", "URL": url}
    settings.WALEX = {"default": stream, "other": other}
    run("walex_setup")
    run("walex_teardown", "--stream", "default", "--no-input")
    assert publications.existing(sql, ["zoo_events"]) == {"zoo_events"}
    run("walex_teardown", "--stream", "other", "--no-input")


@pytest.mark.usefixtures("not_set_up")
def test_setup_publishes_all_model_tables_by_default(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    stream = {"PUBLICATION": 'odd "name"', "SLOT_NAME": "zoo_walex"}
    settings.WALEX = {"default": stream}

    assert run("walex_setup") == ('default: create the publication "odd "name""\n')
    tables = publications.tables(sql, ['odd "name"'])
    assert ("public", "zoo_keeper") in tables
    assert ("public", "auth_user") in tables
    assert ("legacy", "nobody_knows") not in tables
    run("walex_teardown", "--no-input")


def test_teardown_asks_for_confirmation(
    durable: StreamConfig, monkeypatch: pytest.MonkeyPatch, sql: psycopg.Connection[Any]
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "no")

    with pytest.raises(CommandError, match=r"Nothing was dropped\."):
        run("walex_teardown", "--stream", "default")
    assert slots.find(sql, durable.slot_name) is not None

    monkeypatch.setattr("builtins.input", lambda _: "yes")
    run("walex_teardown", "--stream", "default")
    assert slots.find(sql, durable.slot_name) is None
    assert run("walex_teardown", "--stream", "default") == "default: nothing to do\n"


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            {"SUBSCRIPTIONS": ["legacy.nothing"]},
            "SUBSCRIPTIONS contains 'legacy.nothing'",
        ),
        ({"SUBSCRIPTIONS": ["zoo.Keeper"], "DATABASE": "second"}, "zoo_walex"),
        ({"DURABLE_SLOT": False}, "would create a temporary one"),
    ],
)
@pytest.mark.usefixtures("durable")
def test_setup_fails_with_one_line_message(
    settings: Any, stream: dict[str, Any], message: str
) -> None:
    settings.WALEX = {"default": {**settings.WALEX["default"], **stream}}

    with pytest.raises(CommandError) as raised:
        run("walex_setup")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_invalid_settings_stop_every_command(settings: Any) -> None:
    settings.WALEX = {"default": {"PUBLICATON": "zoo_events"}}

    for command in ("walex_setup", "walex_listen", "walex_teardown"):
        with pytest.raises((SystemCheckError, CommandError)) as raised:
            call_command(command, skip_checks=False)
        assert "Did you mean 'PUBLICATION'?" in str(raised.value)
        with pytest.raises(CommandError, match="Did you mean 'PUBLICATION'"):
            call_command(command)


def test_unknown_stream_gets_suggestion() -> None:
    with pytest.raises(CommandError, match="Did you mean 'default'"):
        run("walex_setup", "--stream", "defualt")
