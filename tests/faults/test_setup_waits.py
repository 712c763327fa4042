"""walex_setup gives way to the application, and says what it waits for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.process import Process, eventually

from .listener import ONE, with_stream
from .server import SLOT, Server


@contextmanager
def session(server: Server, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of the application, open after this statement."""
    with psycopg.connect(server.url(), application_name="till") as opened:
        opened.execute(statement.encode())
        yield opened


def waits(server: Server) -> list[Any]:
    """Return the statements that wait for a lock."""
    return server.execute(
        "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    )


def slots(server: Server) -> list[Any]:
    return server.execute(
        "SELECT confirmed_flush_lsn IS NOT NULL FROM pg_replication_slots"
        f" WHERE slot_name = '{SLOT}'"
    )


def identity(server: Server) -> str:
    ((found,),) = server.execute(
        "SELECT relreplident::text FROM pg_class WHERE relname = 'zoo_keeper'"
    )
    return str(found)


def test_setup_gives_way_to_a_reader_and_names_it(
    server: Server, environment: dict[str, str]
) -> None:
    env = with_stream(environment, REPLICA_IDENTITY={"zoo.Keeper": "FULL"})
    with session(server, "SELECT FROM zoo_keeper") as reader:
        pid = reader.info.backend_pid
        with Process("walex_setup", *ONE, env=env) as setup:
            eventually(lambda: waits(server) != [], "the wait of ALTER TABLE")
            # Others are held up for moments only.
            with server.connect() as other:
                other.execute("SET statement_timeout = '10s'")
                other.execute("SELECT FROM zoo_keeper")
            assert setup.wait() == 1
        assert f'It is held by process {pid} ("till", database postgres' in setup.output
        assert "idle in transaction, transaction open for" in setup.output
        assert "SELECT FROM zoo_keeper" in setup.output
        assert f"SELECT pg_terminate_backend({pid});" in setup.output
        assert waits(server) == []
    assert identity(server) == "d"

    with Process("walex_setup", *ONE, env=env) as setup:
        assert setup.wait() == 0, setup.output
    assert identity(server) == "f"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_carried_out_after_setup_was_ended(
    number: signal.Signals, server: Server, environment: dict[str, str]
) -> None:
    env = with_stream(environment, REPLICA_IDENTITY={"zoo.Keeper": "FULL"})
    with session(server, "SELECT FROM zoo_keeper"):
        with Process("walex_setup", *ONE, env=env) as setup:
            eventually(lambda: waits(server) != [], "the wait of ALTER TABLE")
            setup.signal(number)
            assert setup.wait() != 0
        eventually(lambda: waits(server) == [], "the end of the wait")
    assert identity(server) == "d"


def test_teardown_gives_way_too(server: Server, environment: dict[str, str]) -> None:
    with session(server, "ALTER PUBLICATION zoo_events SET (publish = 'insert')"):
        command = ("walex_teardown", *ONE, "--no-input")
        with Process(*command, env=environment) as teardown:
            assert teardown.wait() == 1, teardown.output
        assert 'drop the publication "zoo_events"' in teardown.output
        assert '("till"' in teardown.output
        assert waits(server) == []


class TestSlot:
    """A slot is created once all running transactions have ended."""

    @pytest.fixture(autouse=True)
    def _no_slot(self, server: Server, environment: dict[str, str]) -> None:
        command = ("walex_teardown", *ONE, "--no-input")
        with Process(*command, env=environment) as teardown:
            assert teardown.wait() == 0, teardown.output

    def test_setup_names_transactions_of_any_database(
        self, server: Server, environment: dict[str, str]
    ) -> None:
        server.execute("CREATE DATABASE elsewhere")
        url = server.url("elsewhere")
        with psycopg.connect(url, application_name="far") as writer:
            writer.execute("CREATE TABLE written ()")
            with Process("walex_setup", *ONE, env=environment) as setup:
                line = setup.wait_for("waiting for process")
                assert f"process {writer.info.backend_pid} (" in line
                assert '"far", database elsewhere, idle in transaction' in line
                assert "CREATE TABLE written ()" in line

                with Process("walex_setup", *ONE, env=environment) as second:
                    assert second.wait() == 1, second.output
                assert f'The slot "{SLOT}" is being created by' in second.output

                writer.commit()
                assert setup.wait() == 0, setup.output
        assert slots(server) == [(True,)]

    def test_prepared_transactions_are_named(
        self, server: Server, environment: dict[str, str]
    ) -> None:
        with server.connect() as writer:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
            writer.execute("PREPARE TRANSACTION 'half'")
        with Process("walex_setup", *ONE, env=environment) as setup:
            line = setup.wait_for("waiting for the prepared transaction")
            assert '("half", database postgres, prepared' in line
            server.execute("ROLLBACK PREPARED 'half'")
            assert setup.wait() == 0, setup.output

    def test_timeout_leaves_nothing_behind(
        self, server: Server, environment: dict[str, str]
    ) -> None:
        with session(server, "INSERT INTO zoo_keeper (name) VALUES ('Ada')") as writer:
            command = ("walex_setup", *ONE, "--timeout", "2")
            with Process(*command, env=environment) as setup:
                assert setup.wait() == 1
            assert f'Could not create the slot "{SLOT}" within 2 s' in setup.output
            pid = writer.info.backend_pid
            assert f"SELECT pg_terminate_backend({pid});" in setup.output
            assert waits(server) == []
            assert slots(server) == []
        assert slots(server) == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_ended_setup_leaves_nothing_behind(
        self, number: signal.Signals, server: Server, environment: dict[str, str]
    ) -> None:
        with session(server, "INSERT INTO zoo_keeper (name) VALUES ('Ada')"):
            with Process("walex_setup", *ONE, env=environment) as setup:
                setup.wait_for("waiting for process")
                setup.signal(number)
                assert setup.wait() != 0
            eventually(lambda: slots(server) == [], "the end of the creation")
            assert waits(server) == []
        assert slots(server) == []
