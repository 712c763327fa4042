"""What commands refuse, warn about and fix when they start, in one line each."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction

from example_project.postgres import Postgres
from tests.integration.test_mistakes import ONE, at, fails
from tests.process import Process, eventually, read_journal
from tests.zoo.models import Keeper, Visit
from walex_django.conf.stream import StreamConfig
from walex_django.replication import publications, slots
from walex_django.replication.errors import SlotMissing
from walex_django.replication.stream import ReplicationConnection
from walex_django.signals import post_db_insert, post_db_message

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

Sql = psycopg.Connection[Any]


def changed(environment: dict[str, str], **stream: Any) -> dict[str, str]:
    """Return the environment of a process with other stream settings."""
    return {**environment, "ZOO_STREAM": json.dumps(stream)}


def succeeds(command: str, environment: dict[str, str], *options: str) -> str:
    """Run a command that succeeds; return its output."""
    with Process(command, *options, env=environment) as process:
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output
        return process.output


def run(*arguments: str) -> str:
    """Run a command in this process and return what it printed."""
    output = StringIO()
    call_command(*arguments, stdout=output, stderr=output)
    return output.getvalue()


@pytest.fixture
def fresh(sql: Sql, settings: Any) -> Iterator[dict[str, Any]]:
    """The settings of one stream, which is torn down at the end."""
    stream = {
        "PUBLICATION": "zoo_fresh",
        "SLOT_NAME": "zoo_fresh",
        "DURABLE_SLOT": True,
        "SUBSCRIPTIONS": ["zoo.*"],
    }
    settings.WALEX = {"default": stream}
    yield stream
    run("walex_teardown", "--no-input")


class TestSubscriptions:
    """Tables in ``SUBSCRIPTIONS`` and in the publication."""

    def test_unpublished_table_stops_the_listener(
        self, durable: StreamConfig, environment: dict[str, str], sql: Sql
    ) -> None:
        sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")

        line = fails("walex_listen", environment)
        assert 'missing from the publication "zoo_events": public.zoo_keeper.' in line
        assert line.endswith("Run: python manage.py walex_setup")

        succeeds("walex_setup", environment, *ONE)
        succeeds("walex_listen", environment, *ONE, "--drain")

    @pytest.mark.parametrize("command", ["walex_setup", "walex_listen"])
    @pytest.mark.parametrize(
        ("entry", "problem"),
        [
            ("legacyy.*", "neither an app 'legacyy' nor such a table exists."),
            ("zooo.Keeper", "Did you mean the app 'zoo'?"),
            ("public.zoo_unicorn", "'public.zoo_unicorn'"),
        ],
    )
    @pytest.mark.usefixtures("durable")
    def test_unknown_name_is_reported(
        self, environment: dict[str, str], command: str, entry: str, problem: str
    ) -> None:
        line = fails(command, changed(environment, SUBSCRIPTIONS=[entry]))
        assert f"SUBSCRIPTIONS contains '{entry}'" in line
        assert problem in line

    def test_setup_before_migrate_is_reported(
        self, own_server: Postgres, environment: dict[str, str]
    ) -> None:
        env = at(own_server, environment)
        for entry in ("*", "zoo.Keeper"):
            line = fails("walex_setup", changed(env, SUBSCRIPTIONS=[entry]))
            assert "Run: python manage.py migrate" in line

        succeeds("migrate", env, "--verbosity=0")
        printed = succeeds("walex_setup", changed(env, SUBSCRIPTIONS=["*"]), *ONE)
        assert 'create the publication "zoo_events"' in printed

    @pytest.mark.parametrize("entry", ["public.aa_parted", "public.*"])
    def test_partitions_are_published_with_their_root(
        self, fresh: dict[str, Any], settings: Any, sql: Sql, entry: str
    ) -> None:
        settings.WALEX = {"default": {**fresh, "SUBSCRIPTIONS": [entry]}}
        sql.execute(
            "CREATE TABLE aa_parted (id int PRIMARY KEY) PARTITION BY RANGE (id)"
        )
        sql.execute(
            "CREATE TABLE aa_low PARTITION OF aa_parted FOR VALUES FROM (0) TO (9)"
        )
        try:
            assert 'create the publication "zoo_fresh"' in run("walex_setup")
            assert run("walex_setup") == "default: nothing to do\n"
            tables = publications.tables(sql, ["zoo_fresh"])
            assert ("public", "aa_parted") in tables
            assert ("public", "aa_low") not in tables
            assert "public.aa_parted" in run("walex_listen", "--drain")
        finally:
            sql.execute("DROP TABLE aa_parted")

    def test_unlogged_table_is_omitted_from_its_schema(
        self, fresh: dict[str, Any], settings: Any, sql: Sql
    ) -> None:
        settings.WALEX = {"default": {**fresh, "SUBSCRIPTIONS": ["legacy.*"]}}
        sql.execute("CREATE UNLOGGED TABLE legacy.scratch (id int PRIMARY KEY)")
        try:
            assert 'create the publication "zoo_fresh"' in run("walex_setup")
            assert run("walex_setup") == "default: nothing to do\n"
            tables = publications.tables(sql, ["zoo_fresh"])
            assert list(map(str, tables)) == ["legacy.audit_log", "legacy.nobody_knows"]
        finally:
            sql.execute("DROP TABLE legacy.scratch")

    def test_publication_named_twice_is_created_once(
        self, fresh: dict[str, Any], settings: Any
    ) -> None:
        twice = {**fresh, "PUBLICATION": ["zoo_fresh", "zoo_fresh"]}
        settings.WALEX = {"default": twice}

        assert run("walex_setup").splitlines()[:-1] == [
            'default: create the publication "zoo_fresh"',
            'default: create the slot "zoo_fresh"',
        ]
        assert run("walex_setup") == "default: nothing to do\n"

    def test_table_without_primary_key_causes_a_warning_until_fixed(
        self, fresh: dict[str, Any], settings: Any, sql: Sql
    ) -> None:
        settings.WALEX = {"default": {**fresh, "SUBSCRIPTIONS": ["legacy.*"]}}
        sql.execute("CREATE TABLE legacy.keyless (id int)")
        try:
            (warning,) = (
                line
                for line in run("walex_setup").splitlines()
                if line.startswith("Warning: ")
            )
            assert "legacy.keyless has no primary key" in warning
            fix = 'ALTER TABLE "legacy"."keyless" REPLICA IDENTITY FULL;'
            assert warning.endswith(f"; or run: {fix}")

            sql.execute(fix.encode())
            assert run("walex_setup") == "default: nothing to do\n"
        finally:
            sql.execute("DROP TABLE legacy.keyless")


class TestTeardown:
    """``walex_teardown`` drops what only the stream uses, once confirmed."""

    def test_a_publication_that_another_stream_reads_is_kept(
        self, fresh: dict[str, Any], settings: Any, sql: Sql
    ) -> None:
        settings.WALEX = {"one": {**fresh, "SLOT_NAME": "zoo_one"}, "default": fresh}
        try:
            run("walex_setup")

            assert run("walex_teardown", "--no-input", "--stream", "one") == (
                'one: drop the slot "zoo_one"\n'
            )
            assert publications.existing(sql, ["zoo_fresh"]) == {"zoo_fresh"}
            run("walex_listen", "--stream", "default", "--drain")
        finally:
            run("walex_teardown", "--no-input")
        assert publications.existing(sql, ["zoo_fresh"]) == set()

    def test_nothing_is_dropped_without_confirmation(
        self, durable: StreamConfig, environment: dict[str, str], sql: Sql
    ) -> None:
        with Process("walex_teardown", *ONE, env=environment) as teardown:
            assert teardown.wait() == 1
        assert teardown.lines[-1] == (
            "CommandError: Nothing was dropped: standard input gave no answer."
            " Add --no-input to skip the confirmation."
        )
        assert "Traceback" not in teardown.output
        assert slots.find(sql, durable.slot_name) is not None


class TestConnection:
    """The server that a stream connects to."""

    @pytest.mark.parametrize("command", ["walex_setup", "walex_listen"])
    @pytest.mark.usefixtures("durable")
    def test_connection_option_unknown_to_libpq(
        self, environment: dict[str, str], command: str
    ) -> None:
        url = f"{environment['ZOO_DATABASE_URL']}?sslmod=require"

        line = fails(command, {**environment, "ZOO_DATABASE_URL": url})
        assert 'invalid connection option "sslmod"' in line

    @pytest.mark.usefixtures("durable")
    def test_url_of_another_database(self, environment: dict[str, str]) -> None:
        env = changed(environment, URL=environment["ZOO_SECOND_URL"])

        line = fails("walex_listen", env)
        assert "URL leads to a different database than DATABASE" in line
        assert "'default'" in line

    @pytest.mark.usefixtures("durable")
    def test_url_of_the_same_database(self, environment: dict[str, str]) -> None:
        env = changed(environment, URL=environment["ZOO_DATABASE_URL"])

        succeeds("walex_listen", env, *ONE, "--drain")

    @pytest.mark.usefixtures("durable")
    def test_missing_slot_is_not_mistaken_for_a_publication(
        self, environment: dict[str, str]
    ) -> None:
        env = changed(environment, SLOT_NAME="publication_slot")

        line = fails("walex_listen", env)
        assert 'The slot "publication_slot" does not exist.' in line
        assert line.endswith("Run: python manage.py walex_setup")

    def test_slot_that_disappears_at_the_last_moment(
        self, config: StreamConfig
    ) -> None:
        parameters = config.connection_parameters()
        connection = ReplicationConnection(parameters, slot="publication_slot")
        try:
            with pytest.raises(SlotMissing, match='"publication_slot" does not exist'):
                connection.start(config.publications)
        finally:
            connection.close()


class TestSignals:
    """Signals of the operating system."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.usefixtures("config")
    def test_wait_for_writing_transactions_can_be_interrupted(
        self, environment: dict[str, str], sql: Sql, number: signal.Signals
    ) -> None:
        env = changed(environment, DURABLE_SLOT=False, SLOT_NAME="zoo_waiting")
        with transaction.atomic():
            Keeper.objects.create(name="undone")
            transaction.set_rollback(True)
            with Process("walex_listen", *ONE, env=env) as listener:
                eventually(lambda: _waits_for_writers(sql), "the wait for the writer")
                listener.signal(number)
                assert listener.wait() == 0, listener.output
        assert listener.output == ""
        eventually(lambda: slots.find(sql, "zoo_waiting") is None, "the slot's end")

    @pytest.mark.usefixtures("durable")
    def test_signal_handlers_are_restored_when_the_command_returns(self) -> None:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.getsignal(number) for number in numbers]

        run("walex_listen", "--stream", "default", "--drain")

        assert [signal.getsignal(number) for number in numbers] == before


class TestReload:
    """``walex_listen --reload``."""

    def test_reload_waits_for_a_change_when_the_start_fails(
        self,
        durable: StreamConfig,
        environment: dict[str, str],
        journal: Path,
        sql: Sql,
        tmp_path: Path,
    ) -> None:
        sql.execute("DROP PUBLICATION zoo_events")
        module = tmp_path / "reloaded.py"
        module.write_text("")
        env = {**environment, "PYTHONPATH": str(tmp_path), "ZOO_IMPORT": "reloaded"}
        with Process("walex_listen", *ONE, "--reload", env=env) as listener:
            line = listener.wait_for('The publication "zoo_events" does not exist.')
            assert line.endswith("Run: python manage.py walex_setup")
            succeeds("walex_setup", environment, *ONE)

            later = time.time() + 10
            os.utime(module, (later, later))
            listener.wait_for("Quit with")
            Keeper.objects.create(name="Ada")
            eventually(lambda: len(read_journal(journal)) == 1, "the event")
            listener.signal(signal.SIGINT)
            listener.wait()
        assert "Traceback" not in listener.output

    @pytest.mark.usefixtures("durable")
    def test_reload_cannot_be_combined_with_drain(self) -> None:
        with pytest.raises(CommandError) as raised:
            run("walex_listen", "--drain", "--reload")
        assert str(raised.value) == "--drain and --reload cannot be used together."


@pytest.mark.usefixtures("config")
def test_drain_requires_a_durable_slot(environment: dict[str, str]) -> None:
    line = fails("walex_listen", changed(environment, DURABLE_SLOT=False), "--drain")
    assert "--drain requires DURABLE_SLOT = True" in line


class TestWarnings:
    """Warnings of ``walex_listen`` when it starts."""

    @pytest.fixture
    def warnings(self, fresh: dict[str, Any], settings: Any) -> Any:
        """Return a function that collects a listener's warnings with some settings."""

        def warnings(**stream: Any) -> list[str]:
            settings.WALEX = {"default": {**fresh, **stream}}
            run("walex_setup")
            lines = run("walex_listen", "--drain").splitlines()
            return [line for line in lines if line.startswith("Warning: ")]

        return warnings

    def test_no_receivers(self, warnings: Any) -> None:
        (warning,) = warnings()
        assert "No receiver is connected" in warning
        assert "weak=False" in warning

    def test_receivers_of_a_model_that_no_stream_delivers(self, warnings: Any) -> None:
        def receiver(**kwargs: Any) -> None:
            pass

        post_db_insert.connect(receiver, sender=Visit)
        try:
            (warning,) = warnings(SUBSCRIPTIONS=["zoo.Keeper"])
            assert "Receivers are connected for zoo.Visit" in warning
            assert "SUBSCRIPTIONS of any stream" in warning
            for entry in ("zoo.Visit", "zoo.*", "public.*", "public.zoo_visit", "*"):
                assert warnings(SUBSCRIPTIONS=[entry]) == []
        finally:
            post_db_insert.disconnect(receiver, sender=Visit)

    def test_receivers_of_messages_that_no_stream_delivers(self, warnings: Any) -> None:
        def receiver(**kwargs: Any) -> None:
            pass

        post_db_message.connect(receiver)
        try:
            (warning,) = warnings()
            assert "post_db_message, but no stream has MESSAGES" in warning
            assert warnings(MESSAGES=["zoo"]) == []
        finally:
            post_db_message.disconnect(receiver)


@pytest.mark.parametrize("own_server", [{"wal_level": "replica"}], indirect=True)
def test_dry_run_prints_sql_for_any_role(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    env = at(own_server, environment)
    succeeds("migrate", env, "--verbosity=0")
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE keeper LOGIN PASSWORD 'pw'")
        connection.execute(
            "GRANT SELECT ON walex_django_checkpoint, walex_django_streamsetting"
            " TO keeper"
        )
    keeper = at(own_server, environment, user="keeper", password="pw")

    for each in (env, keeper):
        create, slot = succeeds("walex_setup", each, *ONE, "--dry-run").splitlines()
        assert create.startswith('CREATE PUBLICATION "zoo_events" FOR TABLE ')
        assert slot.startswith(
            "SELECT pg_catalog.pg_create_logical_replication_slot('zoo_walex'"
        )


def _waits_for_writers(sql: Sql) -> bool:
    found = sql.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = %s"
        " AND wait_event_type = 'Lock' AND wait_event = 'transactionid'",
        ["walex_django zoo_waiting"],
    )
    return found.fetchone() is not None
