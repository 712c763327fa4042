"""Commands report a user's mistake in one line, with the command that fixes it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from example_project.postgres import Postgres
from tests.process import Process
from walex_django.conf.stream import StreamConfig

pytestmark = pytest.mark.django_db(transaction=True)

ONE = ("--stream", "default")


def fails(command: str, environment: dict[str, str], *options: str) -> str:
    """Return the only line that a failing command prints."""
    with Process(command, *ONE, *options, env=environment) as process:
        assert process.wait() == 1, process.output
        (line,) = process.lines
        assert line.startswith("CommandError: default: ")
        return line


def at(server: Postgres, environment: dict[str, str], **user: str) -> dict[str, str]:
    """Return the environment of a process whose databases are on that server."""
    url = server.url(**user)
    return {**environment, "ZOO_DATABASE_URL": url, "ZOO_SECOND_URL": url}


def test_unreachable_server(environment: dict[str, str]) -> None:
    nowhere = "postgres://zoo:s3cret@127.0.0.1:1/zoo"
    env = {**environment, "ZOO_DATABASE_URL": nowhere}
    for command, options in (
        ("walex_setup", []),
        ("walex_listen", ["--no-wait"]),
        ("walex_listen", ["--drain"]),
        ("walex_teardown", []),
    ):
        line = fails(command, env, *options)
        assert "Cannot connect to PostgreSQL" in line
        assert "Check that the server is running" in line
        assert "s3cret" not in line


@pytest.mark.parametrize("own_server", [{"wal_level": "replica"}], indirect=True)
def test_wal_level_too_low(own_server: Postgres, environment: dict[str, str]) -> None:
    for command in ("walex_setup", "walex_listen"):
        line = fails(command, at(own_server, environment))
        assert "wal_level=replica" in line
        assert "ALTER SYSTEM SET wal_level = 'logical'; then restart" in line


def test_role_without_replication(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE keeper LOGIN PASSWORD 'pw'")
    keeper = at(own_server, environment, user="keeper", password="pw")
    for command in ("walex_setup", "walex_listen"):
        line = fails(command, keeper)
        assert 'The role "keeper" may not start replication.' in line
        statement = 'ALTER ROLE "keeper" REPLICATION;'
        assert f"Run as superuser: {statement}" in line

    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute(statement)
    assert "may not start replication" not in fails("walex_listen", keeper)


def test_role_without_privileges(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'pw'")
    env = at(own_server, environment)
    with Process("migrate", "--verbosity=0", env=env) as migrate:
        assert migrate.wait() == 0, migrate.output
    line = fails(
        "walex_setup", at(own_server, environment, user="keeper", password="pw")
    )
    assert "permission denied for table walex_django_" in line
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON walex_django_checkpoint" in line

    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute(
            "GRANT ALL ON walex_django_checkpoint, walex_django_streamsetting TO keeper"
        )
    line = fails(
        "walex_setup", at(own_server, environment, user="keeper", password="pw")
    )
    assert "permission denied for database postgres" in line
    assert "walex_setup --dry-run prints the SQL" in line


def test_wrong_password(own_server: Postgres, environment: dict[str, str]) -> None:
    line = fails("walex_listen", at(own_server, environment, password="wr0ng"))
    assert "password authentication failed" in line
    assert "wr0ng" not in line


def test_missing_publication_and_slot(
    durable: StreamConfig, environment: dict[str, str], sql: psycopg.Connection[Any]
) -> None:
    sql.execute("SELECT pg_drop_replication_slot('zoo_walex')")
    line = fails("walex_listen", environment)
    assert 'The slot "zoo_walex" does not exist.' in line
    assert line.endswith("Run: python manage.py walex_setup")

    sql.execute("DROP PUBLICATION zoo_events")
    line = fails("walex_listen", environment)
    assert 'The publication "zoo_events" does not exist.' in line
    assert line.endswith("Run: python manage.py walex_setup")

    with Process("walex_setup", *ONE, env=environment) as setup:
        assert setup.wait() == 0
    with Process("walex_listen", *ONE, "--drain", env=environment) as listener:
        assert listener.wait() == 0


def test_slot_in_use(durable: StreamConfig, environment: dict[str, str]) -> None:
    with Process("walex_listen", *ONE, env=environment) as first:
        first.wait_for("Quit with")
        for command, option in (
            ("walex_listen", "--no-wait"),
            ("walex_listen", "--drain"),
            ("walex_teardown", "--no-input"),
        ):
            line = fails(command, environment, option)
            assert 'The slot "zoo_walex" is in use' in line
            assert "Stop the other listener" in line


@pytest.mark.parametrize(
    "make",
    [
        "SELECT pg_create_logical_replication_slot('zoo_walex', 'test_decoding')",
        "SELECT pg_create_physical_replication_slot('zoo_walex')",
    ],
)
def test_slot_of_another_kind(
    durable: StreamConfig,
    environment: dict[str, str],
    sql: psycopg.Connection[Any],
    make: str,
) -> None:
    sql.execute("SELECT pg_drop_replication_slot('zoo_walex')")
    sql.execute(make.encode())
    for command in ("walex_setup", "walex_listen"):
        line = fails(command, environment)
        assert 'The slot "zoo_walex" already exists with plugin' in line
        assert line.endswith("Give this stream a different SLOT_NAME.")


@pytest.mark.parametrize("own_server", [{"max_replication_slots": "1"}], indirect=True)
def test_no_free_slot(own_server: Postgres, environment: dict[str, str]) -> None:
    env = at(own_server, environment)
    with Process("migrate", "--verbosity=0", env=env) as migrate:
        assert migrate.wait() == 0, migrate.output
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_create_logical_replication_slot('other', 'pgoutput')"
        )
    with Process("walex_setup", *ONE, env=env) as setup:
        assert setup.wait() == 1
    assert "all replication slots are in use. Drop an unused slot" in setup.lines[-1]
    assert "max_replication_slots" in setup.lines[-1]
