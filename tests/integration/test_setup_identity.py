"""walex_setup sets the replica identities that REPLICA_IDENTITY specifies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management.base import CommandError

from walex_django.checks import check_settings
from walex_django.conf.stream import StreamConfig

from .checking import change_stream, diagnosed, run_command_of
from .test_commands import run

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

ONE = ("--stream", "default")


@pytest.fixture(autouse=True)
def _tables(durable: StreamConfig, sql: psycopg.Connection[Any]) -> Iterator[None]:
    sql.execute(
        "CREATE TABLE zoo_ticket (id int PRIMARY KEY, code int NOT NULL, note int)"
        " PARTITION BY RANGE (id);"
        "CREATE TABLE zoo_ticket_1 PARTITION OF zoo_ticket FOR VALUES FROM (0) TO (9);"
        "CREATE UNIQUE INDEX zoo_ticket_code ON zoo_ticket (id, code);"
        "CREATE UNIQUE INDEX zoo_ticket_note ON zoo_ticket (id, note);"
        "ALTER PUBLICATION zoo_events ADD TABLE zoo_ticket"
    )
    yield
    sql.execute("DROP TABLE zoo_ticket")
    for table in ("zoo_keeper", "zoo_building", "zoo_aviary"):
        sql.execute(f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT".encode())


def identities(sql: psycopg.Connection[Any], *tables: str) -> list[str]:
    rows = sql.execute(
        "SELECT relreplident::text FROM pg_class"
        " JOIN unnest(%s::text[]) WITH ORDINALITY AS asked(name, place)"
        " ON relname = asked.name ORDER BY place",
        [list(tables)],
    )
    return [identity for (identity,) in rows]


def test_w039_different_identity(sql: psycopg.Connection[Any], settings: Any) -> None:
    change_stream(settings, REPLICA_IDENTITY={"zoo.Keeper": "full"})
    found = diagnosed()["W039"]
    assert found.message == (
        "The replica identity of public.zoo_keeper is DEFAULT, but REPLICA_IDENTITY"
        " specifies FULL."
    )
    assert run_command_of(found.hint, "--dry-run", *ONE) == (
        'ALTER TABLE "public"."zoo_keeper" REPLICA IDENTITY FULL;\n'
    )
    assert "W039" in diagnosed()

    assert run_command_of(found.hint, *ONE) == (
        "default: set the replica identity of public.zoo_keeper to FULL\n"
    )
    assert "W039" not in diagnosed()
    assert identities(sql, "zoo_keeper") == ["f"]
    assert run("walex_setup", *ONE) == "default: nothing to do\n"


def test_entry_for_a_single_table_takes_precedence(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    sql.execute("ALTER TABLE zoo_keeper REPLICA IDENTITY FULL")
    chosen = {"zoo.Keeper": "DEFAULT", "zoo.*": "FULL", "*": "NOTHING"}
    change_stream(settings, REPLICA_IDENTITY={**chosen})
    tables = ["zoo_keeper", "zoo_building", "zoo_animal_keepers"]
    try:
        run("walex_setup", *ONE)

        assert identities(sql, *tables) == ["d", "f", "f"]
        assert identities(sql, "auth_user", "walex_django_parkedevent") == ["n", "d"]
    finally:
        change_stream(settings, REPLICA_IDENTITY={"*": "DEFAULT"})
        run("walex_setup", *ONE)
    assert identities(sql, *tables, "auth_user") == ["d", "d", "d", "d"]


def test_identity_is_set_for_partitions(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    change_stream(settings, REPLICA_IDENTITY={"public.zoo_ticket": "FULL"})
    run("walex_setup", *ONE)
    assert identities(sql, "zoo_ticket", "zoo_ticket_1") == ["f", "f"]

    # As after a partition is added.
    sql.execute("ALTER TABLE zoo_ticket_1 REPLICA IDENTITY DEFAULT")
    assert "public.zoo_ticket_1 is DEFAULT" in diagnosed()["W039"].message
    run("walex_setup", *ONE)
    assert "W039" not in diagnosed()


def test_index_is_set_for_partitions(
    sql: psycopg.Connection[Any], settings: Any
) -> None:
    change_stream(settings, REPLICA_IDENTITY={"public.zoo_ticket": "zoo_ticket_code"})
    printed = run("walex_setup", *ONE)

    assert identities(sql, "zoo_ticket", "zoo_ticket_1") == ["i", "i"]
    assert "public.zoo_ticket to zoo_ticket_code\n" in printed
    assert "public.zoo_ticket_1 to zoo_ticket_1_id_code_idx\n" in printed
    assert run("walex_setup", *ONE) == "default: nothing to do\n"


@pytest.mark.parametrize("index", ["zoo_ticket_note", "zoo_nothing"])
def test_w048_unsuitable_index(index: str, settings: Any) -> None:
    change_stream(settings, REPLICA_IDENTITY={"public.zoo_ticket": index})
    found = diagnosed()["W048"]
    assert f"names the index {index!r}" in found.message
    assert "Suitable indexes: zoo_ticket_code, zoo_ticket_pkey." in found.hint
    with pytest.raises(CommandError) as raised:
        run("walex_setup", *ONE)
    assert f"{found.message} {found.hint}" in str(raised.value)

    change_stream(settings, REPLICA_IDENTITY={"public.zoo_ticket": "zoo_ticket_pkey"})
    run("walex_setup", *ONE)
    assert not {"W039", "W048"} & diagnosed().keys()


def test_w048_no_such_table(settings: Any) -> None:
    change_stream(settings, REPLICA_IDENTITY={"public.zoo_tickets": "FULL"})

    assert diagnosed()["W048"].message.startswith(
        "REPLICA_IDENTITY contains 'public.zoo_tickets'"
    )


def test_identity_is_set_before_the_table_is_published(settings: Any) -> None:
    entries = [*settings.WALEX["default"]["SUBSCRIPTIONS"], "auth.Group"]
    change_stream(
        settings, SUBSCRIPTIONS=entries, REPLICA_IDENTITY={"auth.Group": "FULL"}
    )
    first, second = run("walex_setup", "--dry-run", *ONE).splitlines()

    assert first == 'ALTER TABLE "public"."auth_group" REPLICA IDENTITY FULL;'
    assert second.startswith('ALTER PUBLICATION "zoo_events" ADD TABLE')


@pytest.mark.parametrize(
    ("written", "id"),
    [
        ("FULL", "E003"),
        ({"zoo.Keeper": True}, "E003"),
        ({"zoo.Keeper": ""}, "E003"),
        ({"Keeper": "FULL"}, "E003"),
        ({"zoo.Keper": "FULL"}, "E006"),
    ],
)
def test_invalid_settings(written: object, id: str, settings: Any) -> None:
    change_stream(settings, REPLICA_IDENTITY=written)
    (found,) = check_settings()
    assert found.id == f"walex_django.{id}"
    assert "'REPLICA_IDENTITY'" in found.msg
    assert found.hint or "REPLICA_IDENTITY" in found.msg
