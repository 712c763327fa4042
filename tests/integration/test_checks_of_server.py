"""Checks find problems of the server or the role, and their hints fix them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.db import connections

from example_project.postgres import Postgres
from tests.process import Process
from walex_django.conf.stream import StreamConfig
from walex_django.replication import server, synchronous
from walex_django.replication.errors import NotPrepared

from .checking import (
    change_stream,
    checked,
    diagnosed,
    run_command_of,
    run_sql_of,
    sql_of,
)
from .test_mistakes import at, fails

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])


def test_w020_unreachable_server(environment: dict[str, str]) -> None:
    # With Django's own URL, checks of generated fields would fail in Django 6.1.
    stream = {"URL": "postgres://zoo:s3cret@127.0.0.1:1/zoo"}
    found = checked({**environment, "ZOO_STREAM": json.dumps(stream)})

    assert found.keys() == {"W020"}
    assert found["W020"].message.startswith("Cannot connect to PostgreSQL: ")
    assert found["W020"].hint.startswith(
        "Check that the server is running, and that the host"
    )
    assert "s3cret" not in str(found)

    stream = {"URL": environment["ZOO_DATABASE_URL"]}
    found = checked({**environment, "ZOO_STREAM": json.dumps(stream)})
    assert "W020" not in found


def test_w020_unreachable_server_raises_nothing(settings: Any) -> None:
    change_stream(settings, URL="postgres://zoo:s3cret@127.0.0.1:1/zoo")

    assert diagnosed().keys() == {"W020"}


def test_w022_server_too_old(sql: psycopg.Connection[Any]) -> None:
    # No server that old is available to the tests.
    facts = replace(server.read(sql), number=140018, version="14.18")

    with pytest.raises(NotPrepared, match=r"PostgreSQL 14\.18 is too old"):
        server.require_version(facts)
    server.require_version(server.read(sql))


@pytest.mark.parametrize("own_server", [{"wal_level": "replica"}], indirect=True)
def test_w023_wal_level(own_server: Postgres, environment: dict[str, str]) -> None:
    env = at(own_server, environment)
    found = checked(env)["W023"]
    assert found.message == (
        "The server runs with wal_level=replica, but logical replication requires"
        " wal_level=logical."
    )
    assert found.hint in fails("walex_setup", env)

    run_sql_of(found.hint, own_server)
    assert "W023" not in checked(env)


def test_w024_role_without_replication(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE keeper LOGIN PASSWORD 'pw'")
    env = at(own_server, environment, user="keeper", password="pw")
    found = checked(env)
    assert found["W024"].message == 'The role "keeper" may not start replication.'
    # The same refusal is not reported twice.
    assert "W027" not in found

    run_sql_of(found["W024"].hint, own_server)
    assert "W024" not in checked(env)


@pytest.mark.parametrize("own_server", [{"max_replication_slots": "1"}], indirect=True)
def test_w025_no_free_slot(own_server: Postgres, environment: dict[str, str]) -> None:
    env = at(own_server, environment)
    assert "W025" not in checked(env)
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("SELECT pg_create_physical_replication_slot('other')")
    found = checked(env)["W025"]
    assert "all replication slots are in use" in found.message
    with Process("migrate", "--verbosity=0", env=env) as migrate:
        assert migrate.wait() == 0, migrate.output
    with Process("walex_setup", "--stream", "default", env=env) as setup:
        assert setup.wait() == 1
    assert found.hint in setup.lines[-1]

    run_sql_of(found.hint, own_server)
    assert "W025" not in checked(env)
    with Process("walex_setup", "--stream", "default", env=env) as setup:
        assert setup.wait() == 0, setup.output


@pytest.mark.parametrize("own_server", [{"max_wal_senders": "1"}], indirect=True)
def test_w026_no_free_walsender(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    env = at(own_server, environment)
    assert "W026" not in checked(env)
    with psycopg.connect(
        own_server.url(), replication="database", autocommit=True
    ) as _reader:
        found = checked(env)
        assert "max_wal_senders is 1" in found["W026"].message
        assert "W027" not in found

    run_sql_of(found["W026"].hint, own_server)
    with psycopg.connect(
        own_server.url(), replication="database", autocommit=True
    ) as _reader:
        assert "W026" not in checked(env)


def test_w028_url_of_different_database(durable: StreamConfig, settings: Any) -> None:
    second = connections["second"].settings_dict
    url = "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**second)
    change_stream(settings, URL=url)
    found = diagnosed()["W028"]
    assert found.message.startswith("URL leads to a different database than DATABASE")
    assert found.hint.startswith("Make both name the same database")

    change_stream(settings, URL=url.replace(second["NAME"], "test_postgres"))
    assert "W028" not in diagnosed()


def test_w046_or_w029_failover(
    durable: StreamConfig, settings: Any, sql: psycopg.Connection[Any]
) -> None:
    """W046 where the server supports failover slots, W029 where it doesn't."""
    assert not {"W029", "W046"} & diagnosed().keys()
    change_stream(settings, FAILOVER=True)
    found = diagnosed()
    if sql.info.server_version < 170000:
        assert "FAILOVER requires PostgreSQL 17" in found["W029"].message
        assert found["W029"].hint == "Remove FAILOVER from the stream's settings."
        change_stream(settings, FAILOVER=False)
    else:
        assert 'no copy of the slot "zoo_walex"' in found["W046"].message
        run_command_of(found["W046"].hint, "--stream", "default")
    assert not {"W029", "W046"} & diagnosed().keys()


def test_i047_unlimited_wal(own_server: Postgres, environment: dict[str, str]) -> None:
    env = at(own_server, environment)
    found = checked(env)["I047"]
    assert 'the slot "zoo_walex"' in found.message
    assert "max_slot_wal_keep_size" in sql_of(found.hint)[0]

    run_sql_of(found.hint, own_server)
    assert "I047" not in checked(env)


def test_i047_ignores_temporary_slots(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    env = {**at(own_server, environment), "ZOO_STREAM": '{"DURABLE_SLOT": false}'}

    assert "I047" not in checked(env)


def test_w050_synchronous_standby(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    env = at(own_server, environment)
    assert "W050" not in checked(env)
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")
    found = checked(env)["W050"]
    assert "synchronous_standby_names = '*'" in found.message
    assert '"walex_django zoo_walex"' in found.message

    run_sql_of(found.hint.replace("'name, …'", "'elsewhere'"), own_server)
    assert "W050" not in checked(env)


@pytest.mark.parametrize(
    ("names", "covered"),
    [
        ("", False),
        ("*", True),
        ('"*"', True),
        ("a, walex_x", True),
        ("a, WALEX_X", True),
        ('a, "Walex_x"', True),
        ("walex_xy", False),
        ("FIRST 1 (a, b)", False),
        ("first 1 (a, walex_x)", True),
        ("ANY 2 (a,walex_x,b)", True),
        ("2 (a, *)", True),
        ('1 ("a ""b"" (*)")', False),
        ("ANY 1 (any)", False),
    ],
)
def test_names_of_synchronous_standbys(names: str, covered: bool) -> None:
    assert synchronous.covers(names, "walex_x") is covered


def test_i051_idle_slots(own_server: Postgres, environment: dict[str, str]) -> None:
    env = at(own_server, environment)
    assert "I051" not in checked(env)
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("the server has no idle_replication_slot_timeout")
        connection.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1h'")
        connection.execute("SELECT pg_reload_conf()")
    found = checked(env)["I051"]
    assert "idle_replication_slot_timeout is 3600 s" in found.message

    run_sql_of(found.hint, own_server)
    assert "I051" not in checked(env)
