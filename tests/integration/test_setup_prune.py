"""walex_setup --prune drops unwanted tables from publications."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from walex_django.conf.stream import StreamConfig
from walex_django.replication import publications

from .checking import change_stream, diagnosed
from .test_commands import run

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

ONE = ("--stream", "default")


@pytest.fixture(autouse=True)
def _unwanted_tables(durable: StreamConfig, sql: psycopg.Connection[Any]) -> None:
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE auth_group, auth_permission")


def published(sql: psycopg.Connection[Any]) -> set[str]:
    return set(map(str, publications.tables(sql, ["zoo_events"])))


def test_dry_run_prints_the_sql(sql: psycopg.Connection[Any]) -> None:
    assert run("walex_setup", "--prune", "--dry-run", *ONE) == (
        'ALTER PUBLICATION "zoo_events" DROP TABLE "public"."auth_group",'
        ' "public"."auth_permission";\n'
    )
    assert "public.auth_group" in published(sql)


def test_nothing_is_dropped_without_prune(sql: psycopg.Connection[Any]) -> None:
    assert run("walex_setup", *ONE) == "default: nothing to do\n"
    assert "public.auth_group" in published(sql)


def test_table_that_another_stream_wants_is_kept(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    other = {"PUBLICATION": ["zoo_events"], "SUBSCRIPTIONS": ["auth.Group"]}
    settings.WALEX = {**settings.WALEX, "other": other}

    assert diagnosed()["I032"].message.endswith(
        "subscribes to: public.auth_permission."
    )
    run("walex_setup", "--prune", *ONE)
    assert "public.auth_group" in published(sql)
    assert "public.auth_permission" not in published(sql)
    assert "I032" not in diagnosed()


def test_stream_of_another_database_is_ignored(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    second = {**settings.WALEX["second"], "SUBSCRIPTIONS": ["auth.Group"]}
    settings.WALEX = {**settings.WALEX, "second": second}

    run("walex_setup", "--prune", *ONE)
    assert "public.auth_group" not in published(sql)


def test_stream_of_all_tables_keeps_all_tables(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    change_stream(settings, SUBSCRIPTIONS=["*"])

    assert "I032" not in diagnosed()
    run("walex_setup", "--prune", *ONE)
    assert "public.auth_group" in published(sql)


def test_partitioned_table_is_kept_for_its_partition(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute(
        "CREATE TABLE zoo_parts (a int PRIMARY KEY) PARTITION BY RANGE (a);"
        "CREATE TABLE zoo_part PARTITION OF zoo_parts FOR VALUES FROM (0) TO (10);"
        "ALTER PUBLICATION zoo_events ADD TABLE zoo_parts"
    )
    try:
        entries = [*settings.WALEX["default"]["SUBSCRIPTIONS"], "public.zoo_part"]
        change_stream(settings, SUBSCRIPTIONS=entries)

        run("walex_setup", "--prune", *ONE)
        assert "public.zoo_parts" in published(sql)
    finally:
        sql.execute("DROP TABLE zoo_parts")


def test_publications_of_a_schema_are_left_alone(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute("CREATE PUBLICATION zoo_legacy FOR TABLES IN SCHEMA legacy")
    try:
        change_stream(settings, PUBLICATION="zoo_legacy", SUBSCRIPTIONS=["legacy.*"])
        assert "I032" not in diagnosed()
        change_stream(settings, SUBSCRIPTIONS=["legacy.audit_log"])

        assert "I032" not in diagnosed()
        assert run("walex_setup", "--prune", *ONE) == "default: nothing to do\n"
    finally:
        sql.execute("DROP PUBLICATION zoo_legacy")
