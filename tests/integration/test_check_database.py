"""Database checks, run by `manage.py check --database` and other commands."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest
from django.core import mail
from django.core.checks import INFO, WARNING, Tags, run_checks
from django.db import connections

from example_project.postgres import Postgres
from tests.process import Process
from walex_django.checks import check_databases
from walex_django.conf.stream import StreamConfig
from walex_django.diagnosis import problems
from walex_django.diagnosis.problems import find_problems
from walex_django.replication import slots
from walex_django.replication.connection import connect

from .checking import change_stream, checked, diagnosed
from .test_commands import run
from .test_mistakes import at

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])


def ids(**arguments: Any) -> set[str]:
    return {str(each.id) for each in check_databases(**arguments)}


def test_only_streams_of_given_databases_are_checked(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")

    assert ids() == ids(databases=[]) == set()
    assert "walex_django.W031" in ids(databases=["default"])
    assert "walex_django.W031" not in ids(databases=["second"])


def test_database_checks_run_only_with_databases(
    durable: StreamConfig, settings: Any
) -> None:
    change_stream(settings, SUBSCRIPTIONS=["public.nothing"])
    ours = "walex_django.W048"

    assert ours not in {each.id for each in run_checks()}
    assert ours not in {each.id for each in run_checks(tags=["walex_django"])}
    assert ours in {each.id for each in run_checks(databases=["default"])}
    found = run_checks(tags=[Tags.database], databases=["default"])
    assert ours in {each.id for each in found}


def test_database_checks_are_never_errors(durable: StreamConfig, settings: Any) -> None:
    stream = {"SUBSCRIPTIONS": ["public.nothing"], "PUBLICATION": "nothing"}
    change_stream(settings, **stream)
    found = check_databases(databases=["default"])

    levels = {str(each.id): each.level for each in found}
    assert levels == {
        "walex_django.W030": WARNING,
        "walex_django.W048": WARNING,
        "walex_django.I047": INFO,
    }
    assert {str(each.obj) for each in found} == {"WALEX['default']"}


def test_w048_misspelt_model_label_is_reported(
    durable: StreamConfig, settings: Any
) -> None:
    change_stream(settings, SUBSCRIPTIONS=["zoo.Keper", "zoo.Animal"])
    found = diagnosed()

    assert found.keys() <= {"W048", "I032", "I047"}
    assert found["W048"].message.startswith("The app 'zoo' has no model 'Keper'; it")
    assert found["W048"].hint == "Correct the name."


def test_stream_with_invalid_settings_does_not_hide_problems_of_others(
    durable: StreamConfig, sql: psycopg.Connection[Any], settings: Any
) -> None:
    settings.WALEX = {**settings.WALEX, "wrong": {"PUBLICATON": "zoo_events"}}
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")

    assert ids(databases=["default"]) == {"walex_django.W031", "walex_django.I047"}


def test_w045_ignores_slot_of_stream_with_invalid_settings(
    durable: StreamConfig, sql: psycopg.Connection[Any], settings: Any
) -> None:
    settings.WALEX = {**settings.WALEX, "wrong": {"PUBLICATON": "zoo_events"}}
    sql.execute("SELECT pg_create_logical_replication_slot('wrong_walex', 'pgoutput')")
    try:
        assert "walex_django.W045" not in ids(databases=["default"])
    finally:
        slots.drop(sql, "wrong_walex")


def test_server_wide_problem_is_reported_once(
    durable: StreamConfig, sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute("SELECT pg_create_logical_replication_slot('old_walex', 'pgoutput')")
    other = {**settings.WALEX["default"], "SLOT_NAME": "other", "DURABLE_SLOT": False}
    settings.WALEX = {**settings.WALEX, "other": other}
    try:
        found = check_databases(databases=["default"])
        assert [each.id for each in found].count("walex_django.W045") == 1
    finally:
        slots.drop(sql, "old_walex")


def test_w045_is_reported_once_while_retained_wal_grows(
    durable: StreamConfig,
    sql: psycopg.Connection[Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sql.execute("SELECT pg_create_logical_replication_slot('old_walex', 'pgoutput')")
    other = {**settings.WALEX["default"], "SLOT_NAME": "other", "DURABLE_SLOT": False}
    settings.WALEX = {**settings.WALEX, "other": other}
    sizes = iter(["1 kB", "2 kB"])
    monkeypatch.setattr(problems, "format_size", lambda _: next(sizes))
    try:
        found = check_databases(databases=["default"])
        assert [each.id for each in found].count("walex_django.W045") == 1
        assert next(sizes, None) is None
    finally:
        slots.drop(sql, "old_walex")


def test_missing_setup_is_ignored_in_test_database(
    durable: StreamConfig, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_stream(settings, PUBLICATION="nothing", SLOT_NAME="nothing")
    assert hasattr(mail, "outbox")
    assert ids(databases=["default"]) == set()

    monkeypatch.delattr(mail, "outbox")
    found = ids(databases=["default"])
    assert {"walex_django.W030", "walex_django.W040"} <= found


def test_slot_of_other_database_is_ignored_in_test_database(
    durable: StreamConfig, settings: Any
) -> None:
    change_stream(settings, PUBLICATION="nothing", SLOT_NAME="there")
    parameters = {**durable.connection_parameters(), "dbname": "postgres"}
    with connect(parameters) as there:
        there.execute("SELECT pg_create_logical_replication_slot('there', 'pgoutput')")
        try:
            assert "W041" in diagnosed()
            assert ids(databases=["default"]) == set()
        finally:
            slots.drop(there, "there")


def test_missing_publication_is_ignored_in_test_database_for_temporary_slot(
    durable: StreamConfig, settings: Any
) -> None:
    change_stream(
        settings, PUBLICATION="nothing", SLOT_NAME="nothing", DURABLE_SLOT=False
    )
    assert ids(databases=["default"]) == set()


def test_check_command_reports_problems_until_setup_fixes_them(
    durable: StreamConfig, environment: dict[str, str]
) -> None:
    env = {**environment, "ZOO_STREAM": '{"SUBSCRIPTIONS": ["zoo.*", "auth.Group"]}'}
    assert "public.auth_group" in checked(env)["W031"].message
    deploy = ("check", "--database", "default", "--fail-level", "WARNING")
    with Process(*deploy, env=env) as process:
        assert process.wait() == 1
        process.wait_for("walex_django.W031")
    with Process("check", env=env) as process:
        assert process.wait() == 0
        assert process.lines == ["System check identified no issues (0 silenced)."]

    with Process("walex_setup", "--stream", "default", env=env) as setup:
        assert setup.wait() == 0
    with Process(*deploy, env={**env, "ZOO_NO_SECOND": "1"}) as process:
        assert process.wait() == 0, process.output


@pytest.mark.parametrize("own_server", [{"wal_level": "replica"}], indirect=True)
def test_migrate_reports_problems_and_continues(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    env = at(own_server, environment)
    with Process("migrate", "--verbosity=1", env=env) as migrate:
        assert migrate.wait() == 0, migrate.output
    assert any("(walex_django.W023)" in line for line in migrate.lines)
    # Tables that the command is about to create are not reported as missing.
    assert "W048" not in migrate.output
    with psycopg.connect(own_server.url()) as connection:
        (made,) = connection.execute("SELECT to_regclass('zoo_keeper')")
        assert made != (None,)


def test_checks_are_cheap(durable: StreamConfig, sql: psycopg.Connection[Any]) -> None:
    run("walex_setup", "--stream", "default")
    find_problems(durable, sql)
    start = time.monotonic()
    for _ in range(10):
        find_problems(durable, sql)
    assert time.monotonic() - start < 5
    assert connections["default"].in_atomic_block is False
