"""The state that listeners report, and the status derived from it."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from threading import Event

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection

from tests.listening import Connect, Listening
from tests.process import Process, eventually
from tests.zoo.models import Animal, Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.listening.listener import Listener, Listeners
from walex_django.models import ListenerReport, ListenerState, StreamSample
from walex_django.monitoring import inspection, reporter
from walex_django.monitoring.reporter import Reporter
from walex_django.monitoring.status import StreamState, StreamStatus
from walex_django.replication import connection as replication
from walex_django.signals import post_db_insert

from .stream import Stream
from .test_mistakes import ONE

pytestmark = pytest.mark.django_db(transaction=True)

KILLED = "The listener exited without reporting a status (it was probably killed)."
AWAY = "postgres://zoo:s3cret@127.0.0.1:1/zoo"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the reporter's periodic tasks without a pause."""
    monkeypatch.setattr(reporter, "_TICK", 0.02)
    monkeypatch.setattr(reporter, "_SAMPLE_EVERY", 0.05)


@contextmanager
def reported(config: StreamConfig) -> Iterator[Listening]:
    """Run a listener and write its reports."""
    with Listening(config) as listening:
        writer = Reporter([listening.report])
        writer.start()
        try:
            yield listening
        finally:
            writer.close()


@contextmanager
def known_to_run(config: StreamConfig) -> Iterator[Listening]:
    """Run a listener whose report already shows that it is running."""
    with reported(config) as listening:
        rows = ListenerReport.objects.filter(
            listener=listening.report.id, state=ListenerState.RUNNING
        )
        eventually(rows.exists, "the report")
        yield listening


def status_of(config: StreamConfig) -> StreamStatus:
    (stream,) = inspection.inspect_all([config]).streams
    return stream


def wait_for_state(config: StreamConfig, state: StreamState) -> StreamStatus:
    eventually(lambda: status_of(config).state == state, f"{state!r}")
    return status_of(config)


def test_running_listener_reads_the_slot(durable: StreamConfig) -> None:
    assert status_of(durable).state == StreamState.STOPPED
    with reported(durable):
        eventually(ListenerReport.objects.exists)
        stream = status_of(durable)
        (report,) = ListenerReport.objects.all()
    assert stream.state == StreamState.RUNNING
    assert stream.report == report
    assert stream.slot
    assert report.backend_pid == stream.slot.active_pid
    assert stream.since == report.since


def test_deliveries_are_sampled(durable: StreamConfig, quick: None) -> None:
    with reported(durable) as listening:
        Keeper.objects.create(name="Ada")
        Animal.objects.bulk_create(Animal(name=name) for name in ("Leo", "Rex"))
        listening.wait_for(3)
        eventually(
            lambda: sum(StreamSample.objects.values_list("events", flat=True)) == 3
        )
        eventually(lambda: ListenerReport.objects.get().transactions == 2)
        stream = status_of(durable)
        assert sum(StreamSample.objects.values_list("transactions", flat=True)) == 2
        assert listening.report.counts.events == {
            (("public", "zoo_keeper"), "insert"): 1,
            (("public", "zoo_animal"), "insert"): 2,
        }
    report = stream.report
    assert report
    assert (report.events, report.transactions, report.failures) == (3, 2, 0)
    assert report.last_event_id == listening.events[-1].id
    assert report.last_event_at == listening.events[-1].timestamp
    assert stream.events_per_second == 3 / 60
    assert stream.records.samples[-1].lag is not None


def test_an_idle_stream_writes_nothing(
    durable: StreamConfig, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[None] = []
    check: Callable[..., None] = reporter._ReportWriter.check

    def counted(writer: object) -> None:
        check(writer)
        checks.append(None)

    with reported(durable) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        eventually(lambda: _is_reported(listening))
        before = _written()
        monkeypatch.setattr(reporter._ReportWriter, "check", counted)
        eventually(lambda: len(checks) > 20)
        assert _written() == before


def _is_reported(listening: Listening) -> bool:
    """Return whether the report is complete."""
    row = ListenerReport.objects.first()
    return (
        row is not None
        and row.transactions == 1
        and row.delivering_since is None
        and listening.report.counts.delivering is None
    )


def _written() -> list[object]:
    return [
        *ListenerReport.objects.values_list("updated_at"),
        *StreamSample.objects.values_list("pk"),
    ]


def test_change_in_progress_has_an_age(
    durable: StreamConfig, quick: None, connect: Connect
) -> None:
    entered, leave = Event(), Event()

    def dawdle(**kwargs: object) -> None:
        entered.set()
        assert leave.wait(20)

    connect(post_db_insert, dawdle)
    with reported(durable) as listening:
        Keeper.objects.create(name="Ada")
        assert entered.wait(20)
        try:
            eventually(
                lambda: (
                    (status_of(durable).age or timedelta(0)) > timedelta(seconds=0.2)
                )
            )
        finally:
            leave.set()
        listening.wait_for(1)
        eventually(lambda: ListenerReport.objects.get().delivering_since is None)


def test_change_lost_with_a_temporary_slot_is_not_in_progress(
    config: StreamConfig, connect: Connect
) -> None:
    def leave(**kwargs: object) -> None:
        with connection.cursor() as cursor, suppress(OperationalError):
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        raise ValueError

    connect(post_db_insert, leave)
    with Listening(replace(config, max_retries=0)) as listening:
        report = listening.report
        Keeper.objects.create(name="Ada")
        eventually(lambda: report.state == ListenerState.RETRYING)
        eventually(lambda: report.state == ListenerState.RUNNING)
        assert report.counts.delivering is None


def test_stop_is_reported(durable: StreamConfig) -> None:
    listeners = Listeners([Listener(durable)])
    listeners.start()
    wait_for_state(durable, StreamState.RUNNING)
    eventually(lambda: ListenerReport.objects.filter(state="running").exists())
    listeners.stop()
    listeners.join()
    assert not listeners.failures
    assert status_of(durable).state == StreamState.STOPPED
    assert ListenerReport.objects.get().state == ListenerState.STOPPED


def test_failure_is_reported_with_its_reason(
    durable: StreamConfig, connect: Connect
) -> None:
    def fail(**kwargs: object) -> None:
        raise ValueError("secret")

    connect(post_db_insert, fail)
    config = replace(durable, on_error="stop", max_retries=0)
    listeners = Listeners([Listener(config)])
    listeners.start()
    Keeper.objects.create(name="Ada")
    listeners.join(20)
    assert listeners.failures
    stream = status_of(durable)
    assert stream.state == StreamState.FAILED
    assert "test_reports" in stream.reason
    assert "secret" not in stream.reason
    assert stream.report
    assert stream.report.failures == 1


def test_killed_listener_exits_without_reporting_a_status(
    stream: Stream, durable: StreamConfig
) -> None:
    with stream.listening() as listener:
        eventually(lambda: ListenerReport.objects.filter(state="running").exists())
        listener.signal(signal.SIGKILL)
        listener.wait()
    eventually(lambda: status_of(durable).state == StreamState.STOPPED)
    assert status_of(durable).reason == KILLED
    # The next listener detects that the previous one is gone.
    with stream.listening():
        eventually(lambda: status_of(durable).state == StreamState.RUNNING)
        eventually(lambda: ListenerReport.objects.count() == 1)


def test_killed_listener_is_gone(
    stream: Stream, durable: StreamConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with stream.listening() as listener:
        eventually(lambda: ListenerReport.objects.filter(state="running").exists())
        (alive,) = status_of(durable).listeners
        assert (alive.reads, alive.gone) == (True, False)
        listener.signal(signal.SIGKILL)
        listener.wait()
    wait_for_state(durable, StreamState.STOPPED)
    (killed,) = status_of(durable).listeners
    assert (killed.reads, killed.gone) == (False, True)
    # An unreachable server does not report its readers.
    (unknown,) = status_of(replace(durable, url=AWAY)).listeners
    assert (unknown.reads, unknown.gone) == (False, False)

    call_command("walex_status", "--stream=default")
    assert (
        f"process {listener.pid}: gone (was running since " in capsys.readouterr().out
    )
    call_command("walex_status", "--stream=default", "--json")
    ((entry,),) = (
        each["listeners"] for each in json.loads(capsys.readouterr().out)["streams"]
    )
    assert (entry["state"], entry["reads"], entry["gone"]) == ("running", False, True)


def test_killed_standby_is_gone_once_a_later_listener_has_ended(
    stream: Stream, durable: StreamConfig
) -> None:
    with (
        stream.listening() as first,
        Process("walex_listen", *ONE, env=stream.env) as second,
    ):
        second.wait_for("Waiting to take over")
        eventually(lambda: ListenerReport.objects.filter(state="standby").exists())
        for listener in (second, first):
            listener.signal(signal.SIGKILL)
            listener.wait()
    # As far as is known, it may still be waiting.
    wait_for_state(durable, StreamState.STANDBY)
    assert _gone(durable) == {first.pid}

    with stream.listening() as third:
        wait_for_state(durable, StreamState.RUNNING)
        eventually(lambda: ListenerReport.objects.filter(state="running").exists())
        assert _gone(durable) == set()
        third.signal(signal.SIGTERM)
        assert third.wait() == 0
    wait_for_state(durable, StreamState.STOPPED)
    assert not status_of(durable).reason
    assert _gone(durable) == {second.pid}

    with stream.listening() as fourth:
        eventually(lambda: ListenerReport.objects.filter(state="running").exists())
        fourth.signal(signal.SIGKILL)
        fourth.wait()
    wait_for_state(durable, StreamState.STOPPED)
    assert status_of(durable).reason == KILLED
    assert _gone(durable) == {second.pid, fourth.pid}


def _gone(config: StreamConfig) -> set[int]:
    return {each.report.process for each in status_of(config).listeners if each.gone}


def test_a_second_listener_stands_by(stream: Stream, durable: StreamConfig) -> None:
    with (
        stream.listening() as first,
        Process("walex_listen", *ONE, env=stream.env) as second,
    ):
        second.wait_for("Waiting to take over")
        eventually(lambda: ListenerReport.objects.filter(state="standby").exists())
        assert status_of(durable).state == StreamState.RUNNING
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        second.wait_for("Quit with")
        eventually(
            lambda: ListenerReport.objects.filter(
                state="running", process=second.pid
            ).exists()
        )
        eventually(lambda: ListenerReport.objects.count() == 1)


def test_killed_standby_is_reported_without_a_reason(
    stream: Stream, durable: StreamConfig
) -> None:
    with (
        stream.listening() as first,
        Process("walex_listen", *ONE, env=stream.env) as second,
    ):
        second.wait_for("Waiting to take over")
        eventually(lambda: ListenerReport.objects.filter(state="standby").exists())
        second.signal(signal.SIGKILL)
        second.wait()
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
    eventually(lambda: status_of(durable).state == StreamState.STANDBY)
    assert not status_of(durable).reason


def test_missing_table_is_logged_once_and_delivery_continues(
    durable: StreamConfig, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    table, away = "walex_django_listenerreport", "away"
    rename = "ALTER TABLE {} RENAME TO {}"
    with connection.cursor() as cursor:
        cursor.execute(rename.format(table, away))
    try:
        with caplog.at_level(logging.WARNING), reported(durable) as listening:
            eventually(lambda: "migrate walex_django" in caplog.text)
            Keeper.objects.create(name="Ada")
            listening.wait_for(1)
            stream = status_of(durable)
        assert caplog.text.count("migrate walex_django") == 1
        assert any("migrate walex_django" in each.hint for each in stream.problems)
        status = stream.as_dict()
        for key in ("parked", "events_per_second", "transactions_per_second"):
            assert status[key] is None
    finally:
        with connection.cursor() as cursor:
            cursor.execute(rename.format(away, table))


def test_reader_that_is_not_a_listener_is_reported(durable: StreamConfig) -> None:
    parameters = durable.connection_parameters()
    other = replication.connect(parameters, replication=True, name="somebody")
    try:
        other.execute(
            b"START_REPLICATION SLOT zoo_walex LOGICAL 0/0"
            b" (proto_version '1', publication_names 'zoo_events')"
        )
        found = wait_for_state(durable, StreamState.TAKEN)
    finally:
        other.pgconn.finish()
    assert found.reason == "somebody"


def test_unreachable_server_is_reported_as_a_state(durable: StreamConfig) -> None:
    stream = status_of(replace(durable, url=AWAY))
    assert stream.state == StreamState.UNREACHABLE
    assert "Cannot connect" in stream.reason
    assert "s3cret" not in str(stream.as_dict())
