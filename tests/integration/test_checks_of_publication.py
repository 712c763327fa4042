"""Checks find problems of a publication, and their hints fix them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management.base import CommandError

from walex_django.checks import check_settings
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning.requirements import require_published
from walex_django.replication import publications
from walex_django.replication.errors import PublicationMissing

from .checking import (
    change_stream,
    diagnosed,
    run_command_of,
    sql_of,
    write_settings_of,
)
from .test_commands import run

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

ONE = ("--stream", "default")


@pytest.fixture
def keyless(durable: StreamConfig, sql: psycopg.Connection[Any]) -> Iterator[str]:
    """A table without a key."""
    sql.execute("CREATE TABLE zoo_keyless (a int)")
    yield "zoo_keyless"
    sql.execute("DROP TABLE zoo_keyless")


@pytest.mark.parametrize("table", ["zo.Keeper", "public.zoo_keper"])
def test_w048_filter_on_missing_table(
    table: str, durable: StreamConfig, settings: Any
) -> None:
    change_stream(settings, FILTERS={table: {"sensitive_fields": ["name"]}})

    assert diagnosed()["W048"].message.startswith(f"FILTERS contains {table!r}, but")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("FUL", " Did you mean 'FULL'?"),
        ("defualt", " Did you mean 'DEFAULT'?"),
        ("keeper_nothing", ""),
    ],
)
def test_w048_misspelt_identity(
    written: str, meant: str, durable: StreamConfig, settings: Any
) -> None:
    change_stream(settings, REPLICA_IDENTITY={"zoo.Keeper": written})
    found = diagnosed()["W048"]

    assert f"names the index {written!r}" in found.message
    assert found.hint == f"Suitable indexes: zoo_keeper_pkey.{meant}"


@pytest.mark.parametrize("entry", ["public.zoo_guest", "guests.*"])
def test_w049_filter_on_missing_column(
    entry: str, durable: StreamConfig, settings: Any, sql: psycopg.Connection[Any]
) -> None:
    schema = entry.partition(".")[0]
    sql.execute(
        f"CREATE SCHEMA IF NOT EXISTS {schema};"
        f"CREATE TABLE {schema}.zoo_guest (id int PRIMARY KEY, email text);"
        f"CREATE TABLE {schema}.zoo_host (id int PRIMARY KEY, phone text);"
        f"ALTER PUBLICATION zoo_events ADD TABLE {schema}.zoo_guest, {schema}.zoo_host"
        "".encode()
    )
    try:
        change_stream(settings, FILTERS={entry: {"sensitive_fields": ["emial"]}})
        found = diagnosed()["W049"]
        assert found.message.startswith(
            f"WALEX['default']['FILTERS'][{entry!r}]: no column or field of"
            f" {schema}.zoo_guest"
        )
        assert found.message.endswith(" is named 'emial'.")
        assert found.hint == "Did you mean 'email'?"

        chosen = {"sensitive_fields": ["email"], "changed": ["id"]}
        change_stream(settings, FILTERS={entry: chosen})
        assert "W049" not in diagnosed()
    finally:
        sql.execute(
            f"DROP TABLE {schema}.zoo_guest, {schema}.zoo_host;"
            "DROP SCHEMA IF EXISTS guests".encode()
        )


def test_w049_does_not_repeat_e008_for_a_model(
    durable: StreamConfig, settings: Any
) -> None:
    chosen = {"sensitive_fields": ["nmae"]}
    change_stream(settings, FILTERS={"public.zoo_keeper": chosen})

    assert [found.id for found in check_settings()] == ["walex_django.E008"]
    assert "W049" not in diagnosed()


@pytest.fixture
def crowd(durable: StreamConfig, sql: psycopg.Connection[Any]) -> Iterator[list[str]]:
    """Unpublished tables of one schema, more than a message lists."""
    names = [f"crowd.one_{n:03}" for n in range(200)]
    sql.execute("CREATE SCHEMA crowd")
    for name in names:
        sql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, a int)".encode())
    yield names
    # Dropping all at once would exceed the server's number of locks.
    for name in names:
        sql.execute(f"DROP TABLE {name}".encode())
    sql.execute("DROP SCHEMA crowd")


def test_message_lists_first_ten_of_many_tables(
    crowd: list[str], settings: Any, sql: psycopg.Connection[Any]
) -> None:
    ten = f"{', '.join(crowd[:10])} and 190 more"
    before = settings.WALEX["default"]["SUBSCRIPTIONS"]
    filters = {"crowd.*": {"changed": ["a"]}}
    change_stream(settings, SUBSCRIPTIONS=[*before, "crowd.*"], FILTERS=filters)
    unpublished = diagnosed()["W031"]
    assert unpublished.message.endswith(
        f' missing from the publication "zoo_events": {ten}.'
    )
    with pytest.raises(PublicationMissing) as raised:
        require_published(get_config("default"), sql)
    assert raised.value.reason == unpublished.message

    run_command_of(unpublished.hint, *ONE)
    incomplete = diagnosed()["W036"]
    assert f"lets every UPDATE of {ten} pass" in incomplete.message
    assert '"REPLICA_IDENTITY": {"crowd.*": "FULL"}' in incomplete.hint

    write_settings_of(incomplete.hint, settings)
    found = diagnosed()
    assert found["W036"].hint == "Run: python manage.py walex_setup"
    assert found["W039"].message.startswith(f"The replica identity of {ten} is DEFAULT")

    run_command_of(found["W036"].hint, *ONE)
    assert not {"W036", "W039"} & diagnosed().keys()

    change_stream(settings, SUBSCRIPTIONS=before, FILTERS={}, REPLICA_IDENTITY={})
    found = diagnosed()
    assert found["I032"].message.endswith(f"no stream subscribes to: {ten}.")
    assert max(len(each.message + each.hint) for each in found.values()) < 1000


def test_hint_lists_first_ten_of_many_tables(
    crowd: list[str], settings: Any, sql: psycopg.Connection[Any]
) -> None:
    before = settings.WALEX["default"]["SUBSCRIPTIONS"]
    change_stream(settings, SUBSCRIPTIONS=[*before, "crowd.*"])
    run("walex_setup", *ONE)
    for name in crowd[:12]:
        sql.execute(f"ALTER TABLE {name} REPLICA IDENTITY NOTHING".encode())
    found = diagnosed()["W034"]
    assert found.message.startswith(f"{', '.join(crowd[:10])} and 2 more have no")
    assert (
        f'"{crowd[9]}": "FULL"}} to WALEX[\'default\'], likewise for 2 more tables,'
        " and run:"
    ) in found.hint
    assert crowd[10] not in found.hint
    assert found.hint.endswith('"one_009" REPLICA IDENTITY FULL; and 2 more')


def test_hint_overrides_identity_set_for_single_table(
    crowd: list[str], settings: Any
) -> None:
    before = settings.WALEX["default"]["SUBSCRIPTIONS"]
    change_stream(
        settings,
        SUBSCRIPTIONS=[*before, "crowd.*"],
        FILTERS={"crowd.*": {"changed": ["a"]}},
        REPLICA_IDENTITY={crowd[0]: "DEFAULT"},
    )
    run("walex_setup", *ONE)
    wanted = {"crowd.*": "FULL", crowd[0]: "FULL"}
    assert f'"REPLICA_IDENTITY": {json.dumps(wanted)}' in diagnosed()["W036"].hint


def test_setup_leaves_no_problems(durable: StreamConfig) -> None:
    assert diagnosed().keys() <= {"I047"}


def test_w030_missing_publication(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("DROP PUBLICATION zoo_events")
    found = diagnosed()
    assert found["W030"].message == 'The publication "zoo_events" does not exist.'
    assert "W031" not in found

    run_command_of(found["W030"].hint, *ONE)
    assert "W030" not in diagnosed()


def test_w031_unpublished_table(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")
    found = diagnosed()["W031"]
    assert found.message.endswith('"zoo_events": public.zoo_keeper.')

    run_command_of(found.hint, *ONE)
    assert "W031" not in diagnosed()


def test_i032_published_table_without_subscription(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE auth_group, django_session")
    found = diagnosed()["I032"]
    assert found.message.endswith(
        "subscribes to: public.auth_group, public.django_session."
    )

    printed = run_command_of(found.hint)
    assert (
        'default: remove from the publication "zoo_events": public.auth_group,'
        " public.django_session\n"
    ) in printed
    assert "I032" not in diagnosed()
    assert ("public", "zoo_keeper") in publications.tables(sql, ["zoo_events"])


def test_w033_publication_omits_operations(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("ALTER PUBLICATION zoo_events SET (publish = 'insert, update')")
    found = diagnosed()["W033"]
    assert found.message.endswith("does not send DELETE, TRUNCATE.")

    for statement in sql_of(found.hint):
        sql.execute(statement.encode())
    assert "W033" not in diagnosed()


def test_w034_table_without_key(
    keyless: str, sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute(f"INSERT INTO {keyless} VALUES (1)".encode())
    sql.execute(f"ALTER PUBLICATION zoo_events ADD TABLE {keyless}".encode())
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        sql.execute(f"UPDATE {keyless} SET a = 2".encode())
    found = diagnosed()["W034"]
    assert found.message.startswith("public.zoo_keyless has no primary key")

    write_settings_of(found.hint, settings)
    run_command_of(found.hint, *ONE)
    assert "W034" not in diagnosed()
    sql.execute(f"UPDATE {keyless} SET a = 2".encode())


def test_w034_is_fixed_by_sql_of_hint(
    keyless: str, sql: psycopg.Connection[Any]
) -> None:
    sql.execute(f"ALTER PUBLICATION zoo_events ADD TABLE {keyless}".encode())
    (statement,) = sql_of(diagnosed()["W034"].hint)

    assert statement == 'ALTER TABLE "public"."zoo_keyless" REPLICA IDENTITY FULL;'
    sql.execute(statement.encode())
    assert "W034" not in diagnosed()


def test_w034_lists_all_tables_without_key(
    keyless: str, sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute("CREATE PUBLICATION zoo_everything FOR ALL TABLES")
    try:
        sql.execute("CREATE TABLE zoo_log (a int)")
        change_stream(settings, PUBLICATION="zoo_everything")
        found = diagnosed()
        assert found["W034"].message.startswith(
            "public.zoo_keyless, public.zoo_log have"
        )
        assert "I032" not in found

        write_settings_of(found["W034"].hint, settings)
        run_command_of(found["W034"].hint, *ONE)
        assert "W034" not in diagnosed()
    finally:
        sql.execute("DROP PUBLICATION zoo_everything; DROP TABLE IF EXISTS zoo_log")


def test_w034_setup_warns_before_publishing(keyless: str, settings: Any) -> None:
    entries = [*settings.WALEX["default"]["SUBSCRIPTIONS"], f"public.{keyless}"]
    change_stream(settings, SUBSCRIPTIONS=entries)

    printed = run("walex_setup", "--dry-run", *ONE)
    assert "Warning: public.zoo_keyless has no primary key" in printed
    assert '"REPLICA_IDENTITY": {"public.zoo_keyless": "FULL"}' in printed


def test_w034_partition_without_key(
    durable: StreamConfig, sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute(
        "CREATE TABLE zoo_parts (a int) PARTITION BY RANGE (a);"
        "CREATE TABLE zoo_part PARTITION OF zoo_parts FOR VALUES FROM (0) TO (10);"
        "INSERT INTO zoo_parts VALUES (1);"
        "ALTER PUBLICATION zoo_events ADD TABLE zoo_parts"
    )
    try:
        # Not sufficient: each partition has a replica identity of its own.
        sql.execute("ALTER TABLE zoo_parts REPLICA IDENTITY FULL")
        found = diagnosed()["W034"]
        assert found.message.startswith("public.zoo_parts has")

        write_settings_of(found.hint, settings)
        run_command_of(found.hint, *ONE)
        assert "W034" not in diagnosed()
        sql.execute("UPDATE zoo_parts SET a = 2")
    finally:
        sql.execute("DROP TABLE zoo_parts")


GENERATED = (
    "CREATE TABLE zoo_generated ("
    " id int PRIMARY KEY, a int, double int GENERATED ALWAYS AS (a * 2) {kind});"
    "ALTER TABLE zoo_generated REPLICA IDENTITY FULL;"
    "INSERT INTO zoo_generated VALUES (1, 1);"
    "ALTER PUBLICATION zoo_events ADD TABLE zoo_generated{columns}"
)


@pytest.fixture
def generated(durable: StreamConfig, sql: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    sql.execute("DROP TABLE IF EXISTS zoo_generated")


@pytest.mark.usefixtures("generated")
def test_w035_generated_columns(sql: psycopg.Connection[Any]) -> None:
    sql.execute(GENERATED.format(kind="STORED", columns="").encode())
    if sql.info.server_version < 180000:
        sql.execute("UPDATE zoo_generated SET a = 2")
        assert "W035" not in diagnosed()
        return
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        sql.execute("UPDATE zoo_generated SET a = 2")
    found = diagnosed()["W035"]
    assert found.message.endswith("of its replica identity: double.")

    for statement in sql_of(found.hint):
        sql.execute(statement.encode())
    assert "W035" not in diagnosed()
    sql.execute("UPDATE zoo_generated SET a = 2")


@pytest.mark.usefixtures("generated")
def test_w035_virtual_columns(sql: psycopg.Connection[Any], settings: Any) -> None:
    if sql.info.server_version < 180000:
        pytest.skip("the server has no virtual columns, which are new in PostgreSQL 18")
    sql.execute(GENERATED.format(kind="VIRTUAL", columns="").encode())
    found = diagnosed()["W035"]
    assert "Virtual columns cannot be published." in found.hint

    write_settings_of(found.hint, settings)
    run_command_of(found.hint, *ONE)
    assert "W035" not in diagnosed()
    sql.execute("UPDATE zoo_generated SET a = 2")


@pytest.mark.usefixtures("generated")
def test_w035_column_list(sql: psycopg.Connection[Any], settings: Any) -> None:
    sql.execute(GENERATED.format(kind="STORED", columns=" (id, a)").encode())
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        sql.execute("UPDATE zoo_generated SET a = 2")
    found = diagnosed()["W035"]
    entries = [*settings.WALEX["default"]["SUBSCRIPTIONS"], "public.zoo_generated"]
    change_stream(settings, SUBSCRIPTIONS=entries)

    for statement in sql_of(found.hint):
        sql.execute(statement.encode())
    run_command_of(found.hint, *ONE)
    # The list is gone. The next problem is that 18 omits generated columns.
    if sql.info.server_version < 180000:
        assert "W035" not in diagnosed()
        sql.execute("UPDATE zoo_generated SET a = 2")
    else:
        assert "publish_generated_columns" in diagnosed()["W035"].hint


def test_w048_missing_table(
    keyless: str, settings: Any, sql: psycopg.Connection[Any]
) -> None:
    entries = [*settings.WALEX["default"]["SUBSCRIPTIONS"], "public.zoo_keyles"]
    change_stream(settings, SUBSCRIPTIONS=entries)
    found = diagnosed()["W048"]
    assert found.message == (
        "SUBSCRIPTIONS contains 'public.zoo_keyles', but neither an app 'public' nor"
        " such a table exists."
    )
    with pytest.raises(CommandError) as raised:
        run("walex_setup", *ONE)
    assert found.message in str(raised.value)
    assert found.hint in str(raised.value)

    change_stream(settings, SUBSCRIPTIONS=[*entries[:-1], f"public.{keyless}"])
    assert "W048" not in diagnosed()
