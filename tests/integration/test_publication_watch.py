"""A table that leaves its publication while a listener runs."""

from __future__ import annotations

import logging
from dataclasses import replace

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerReport
from walex_django.monitoring import health, inspection, publication_watch, reporter
from walex_django.monitoring.status import StreamState

from .test_reports import reported

pytestmark = pytest.mark.django_db(transaction=True)

LOST = (
    'These tables are missing from the publication "zoo_events", and their changes are'
    " lost: public.zoo_keeper. Run: python manage.py walex_setup"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens every thirty seconds happens all the time."""
    monkeypatch.setattr(reporter, "_TICK", 0.02)
    monkeypatch.setattr(publication_watch, "_EVERY", 0.05)


@pytest.fixture(params=["*", "zoo.Keeper"])
def subscribed(request: pytest.FixtureRequest, durable: StreamConfig) -> StreamConfig:
    """A stream of all that is published, and one of a table."""
    return replace(durable, subscriptions=(request.param,))


def recreate_keepers() -> None:
    """Drop and recreate the table, with the foreign keys that refer to it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass,"
            " conname, pg_get_constraintdef(oid)) FROM pg_constraint"
            " WHERE contype = 'f' AND confrelid = 'zoo_keeper'::regclass"
        )
        foreign_keys = [statement for (statement,) in cursor.fetchall()]
    assert foreign_keys
    with connection.schema_editor() as editor:
        editor.delete_model(Keeper)
        editor.create_model(Keeper)
        for statement in foreign_keys:
            editor.execute(statement)


def reason() -> str:
    return ListenerReport.objects.get().reason


def verdict(config: StreamConfig) -> list[str]:
    (stream,) = inspection.inspect_all([config], diagnose=False).streams
    assert stream.state == StreamState.RUNNING
    return health.failures(stream)


def test_a_recreated_table_is_reported_until_it_is_published_again(
    subscribed: StreamConfig,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, "walex_django.monitoring.reporter")
    with reported(subscribed) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        eventually(ListenerReport.objects.exists, "a report, and before it a check")
        assert verdict(subscribed) == []
        recreate_keepers()
        eventually(lambda: reason() == LOST, "its reason")
        assert verdict(subscribed) == ["the listener reports a problem"]
        with pytest.raises(SystemExit):
            call_command("walex_status", "--check", "--stream=default")
        shown = capsys.readouterr().out
        call_command("walex_setup", "--stream=default", verbosity=0)
        eventually(lambda: reason() == "", "the end of the reason")
        assert verdict(subscribed) == []
        Keeper.objects.create(name="Bob")
        listening.wait_for(2)

    assert shown == f"default: failing: the listener reports a problem ({LOST})\n"
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert logged == [
        ("WARNING", f"Stream default: {LOST}"),
        ("INFO", "Stream default: its publications contain all its tables again"),
    ]
    assert caplog.records[0].__dict__["stream"] == "default"


def test_a_table_that_is_unpublished_on_purpose_is_no_problem_of_a_stream_of_all(
    durable: StreamConfig, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[str] = []
    check = publication_watch.PublicationWatch.check

    def counted(watch: publication_watch.PublicationWatch) -> None:
        check(watch)
        checks.append(watch.problem)

    monkeypatch.setattr(publication_watch.PublicationWatch, "check", counted)
    config = replace(durable, subscriptions=("*",))
    with reported(config):
        eventually(lambda: bool(checks), "a check")
        sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")
        seen = len(checks)
        eventually(lambda: len(checks) >= seen + 2, "more checks")
    assert {*checks} == {""}


def test_the_check_waits_for_no_table(
    durable: StreamConfig, sql: psycopg.Connection
) -> None:
    config = replace(durable, subscriptions=("zoo.Keeper", "zoo.Animal"))
    with reported(config) as listening, sql.transaction():
        sql.execute("LOCK TABLE zoo_keeper IN ACCESS EXCLUSIVE MODE")
        with psycopg.connect(sql.info.dsn, password=sql.info.password) as other:
            other.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_animal")
            other.commit()
        eventually(lambda: "public.zoo_animal" in listening.report.problem, "a check")
        blocked = sql.execute("SELECT pid FROM pg_locks WHERE NOT granted").fetchall()
    assert blocked == []
