"""Publications that change while a stream runs: no row is lost silently."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.process import Process, eventually

from .listener import ONE, delivered, drain, ids, listening, stop, with_stream
from .server import Server


def set_up(env: dict[str, str], *options: str, status: int = 0) -> str:
    """Run ``walex_setup`` and return what it printed."""
    with Process("walex_setup", *ONE, *options, env=env) as setup:
        assert setup.wait() == status, setup.output
        assert "Traceback" not in setup.output
        return setup.output


def published(server: Server) -> list[Any]:
    return [
        name
        for (name,) in server.execute(
            "SELECT tablename FROM pg_publication_tables ORDER BY 1"
        )
    ]


class TestPartitions:
    def test_new_partitions_of_a_subscribed_name_are_published(
        self, server: Server, environment: dict[str, str], journal: Path
    ) -> None:
        env = with_stream(environment, SUBSCRIPTIONS=["zoo.Keeper", "public.visits"])
        server.execute("CREATE TABLE visits (id int PRIMARY KEY)")
        set_up(env)
        server.execute(
            "ALTER TABLE visits RENAME TO visits_old;"
            "CREATE TABLE visits (id int PRIMARY KEY) PARTITION BY RANGE (id);"
            "ALTER TABLE visits ATTACH PARTITION visits_old FOR VALUES FROM (0) TO (9);"
        )
        assert "nothing to do" in set_up(env)
        server.execute(
            "CREATE TABLE visits_new PARTITION OF visits FOR VALUES FROM (9) TO (99)"
        )

        with Process("walex_listen", *ONE, "--drain", env=env) as listener:
            assert listener.wait() == 1
        assert "missing from the publication" in listener.output
        assert "public.visits" in listener.output

        assert 'add to the publication "zoo_events": public.visits' in set_up(env)
        server.execute("INSERT INTO visits VALUES (1), (10)")
        drain(env)
        assert len(delivered(journal)) == 2
        assert "nothing to do" in set_up(env)


class TestOpenTransactions:
    """A transaction that is open while a table is added to the publication."""

    @pytest.fixture(autouse=True)
    def _table(self, server: Server) -> None:
        server.execute("CREATE TABLE visits (id int PRIMARY KEY)")

    @pytest.fixture
    def env(self, environment: dict[str, str]) -> dict[str, str]:
        return with_stream(environment, SUBSCRIPTIONS=["zoo.Keeper", "public.visits"])

    def test_what_commits_after_setup_arrives_as_a_whole(
        self, server: Server, env: dict[str, str], journal: Path
    ) -> None:
        with (
            psycopg.connect(server.url(), application_name="till") as writer,
            Process("walex_setup", *ONE, env=env) as setup,
        ):
            writer.execute("INSERT INTO visits VALUES (1)")
            pid = writer.info.backend_pid
            line = setup.wait_for("waiting for process")
            assert f'process {pid} ("till", database postgres' in line
            assert "visits" in published(server)
            writer.execute("INSERT INTO visits VALUES (2)")
            writer.commit()
            assert setup.wait() == 0, setup.output

            writer.execute("INSERT INTO visits VALUES (3)")
            writer.execute("INSERT INTO visits VALUES (4)")
            writer.commit()
        drain(env)
        half, *whole = (id.partition(":")[0] for id in ids(journal))
        # 1 was written before the addition, by the transaction that wrote 2.
        assert len(whole) == 2
        assert half not in whole

    def test_prepared_transactions_are_waited_for(
        self, server: Server, env: dict[str, str]
    ) -> None:
        with server.connect() as writer:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO visits VALUES (1)")
            writer.execute("PREPARE TRANSACTION 'half'")
        with Process("walex_setup", *ONE, env=env) as setup:
            assert '"half"' in setup.wait_for("waiting for the prepared transaction")
            server.execute("COMMIT PREPARED 'half'")
            assert setup.wait() == 0, setup.output

    @pytest.mark.parametrize("end", ["timeout", "signal"])
    def test_rows_that_may_be_missing_are_named(
        self, end: str, server: Server, env: dict[str, str]
    ) -> None:
        options = ["--timeout", "1"] if end == "timeout" else []
        with psycopg.connect(server.url(), application_name="till") as writer:
            writer.execute("INSERT INTO visits VALUES (1)")
            pid = writer.info.backend_pid
            with Process("walex_setup", *ONE, *options, env=env) as setup:
                setup.wait_for("waiting for process")
                if end == "signal":
                    setup.signal(signal.SIGTERM)
                assert setup.wait() == 1
        assert f"that process {pid} (" in setup.output
        assert "made to public.visits before" in setup.output
        assert "are not delivered." in setup.output

    def test_readers_and_other_tables_are_not_waited_for(
        self, server: Server, env: dict[str, str]
    ) -> None:
        with psycopg.connect(server.url()) as other:
            other.execute("SELECT FROM visits")
            other.execute("INSERT INTO zoo_building (name) VALUES ('Barn')")
            assert "waiting" not in set_up(env)


class TestSecondPublication:
    """A publication is added to a stream that has run."""

    @pytest.fixture(autouse=True)
    def _table(self, server: Server, environment: dict[str, str]) -> None:
        server.execute("CREATE TABLE visits (id int PRIMARY KEY)")
        drain(environment)

    @pytest.fixture
    def env(self, environment: dict[str, str]) -> dict[str, str]:
        return with_stream(environment, PUBLICATION=["zoo_events", "more"])

    def test_slot_is_advanced_if_nothing_is_left_to_read(
        self, server: Server, env: dict[str, str], journal: Path
    ) -> None:
        # A table of ours, and any other unpublished one.
        server.execute("INSERT INTO visits VALUES (1)")
        output = set_up(env)
        assert 'create the publication "more"' in output
        assert "nothing to do" in set_up(env)
        server.execute("ALTER PUBLICATION more ADD TABLE visits")

        server.write("Ada")
        drain(env)
        assert delivered(journal) == ["Ada"]
        server.write("Bea")
        with listening(env) as listener:
            eventually(lambda: delivered(journal) == ["Ada", "Bea"], "the event")
            stop(listener)

    def test_changes_that_wait_are_read_first_as_the_hint_says(
        self,
        server: Server,
        env: dict[str, str],
        environment: dict[str, str],
        journal: Path,
    ) -> None:
        server.write("Ada")
        for _ in range(2):  # also when it is called again
            output = set_up(env, status=1)
            assert "PUBLICATION = ['zoo_events']" in output
            assert "walex_listen --stream default --drain" in output
            assert "python manage.py walex_setup --stream default" in output

        drain(environment)
        set_up(env)
        server.write("Bea")
        drain(env)
        assert delivered(journal) == ["Ada", "Bea"]

    def test_running_listener_reads_past_the_creation(
        self,
        server: Server,
        env: dict[str, str],
        environment: dict[str, str],
        journal: Path,
    ) -> None:
        with listening(environment) as listener:
            server.write("Ada")
            set_up(env)
            server.write("Bea")
            eventually(lambda: delivered(journal) == ["Ada", "Bea"], "the events")
            stop(listener)
        drain(env)
        server.write("Cleo")
        drain(env)
        assert delivered(journal) == ["Ada", "Bea", "Cleo"]

    def test_transactions_from_before_the_creation_are_waited_for(
        self,
        server: Server,
        env: dict[str, str],
        environment: dict[str, str],
        journal: Path,
    ) -> None:
        with psycopg.connect(server.url(), application_name="till") as writer:
            writer.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")
            with Process("walex_setup", *ONE, env=env) as setup:
                assert '"till"' in setup.wait_for("waiting for process")
                writer.commit()
                assert setup.wait() == 1
        drain(environment)
        set_up(env)
        drain(env)
        assert delivered(journal) == ["Ada"]

    def test_slot_that_has_not_been_read_at_all(
        self, server: Server, env: dict[str, str], journal: Path
    ) -> None:
        with Process("walex_teardown", *ONE, "--no-input", env=env) as teardown:
            assert teardown.wait() == 0
        assert "create the slot" in set_up(env)
        server.write("Ada")
        drain(env)
        assert delivered(journal) == ["Ada"]

    def test_other_publication_in_place_of_the_first(
        self,
        server: Server,
        environment: dict[str, str],
        journal: Path,
    ) -> None:
        env = with_stream(environment, PUBLICATION="other")
        server.write("Ada")
        output = set_up(env, status=1)
        assert "Restore the previous settings" in output

        drain(environment)
        set_up(env)
        drain(env)
        assert delivered(journal) == ["Ada"]
