"""walex_listen as a process: how it starts, stops and resumes."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from tests.process import Process, eventually, read_journal
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.replication import slots

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

ONE = ("walex_listen", "--stream", "default")

_RELOAD_TIMEOUT = 10  # seconds after which the module is changed again


def labels(journal: Path, count: int) -> list[str]:
    """Return the delivered names once there are that many."""
    eventually(lambda: len(read_journal(journal)) >= count, f"{count} events")
    return [line["label"] for line in read_journal(journal)]


@pytest.mark.usefixtures("durable")
def test_banner_shows_stream_slot_and_publication(environment: dict[str, str]) -> None:
    with Process(*ONE, env=environment) as listener:
        listener.wait_for("Quit with CONTROL-C.")
        for line in (
            f"stream default on database {_database('default')} (PostgreSQL ",
            "slot         zoo_walex (durable)",
            "publication  zoo_events: legacy.audit_log, legacy.nobody_knows, public.",
            "receivers    2",
        ):
            listener.wait_for(line)
        listener.signal(signal.SIGINT)
        assert listener.wait() == 0
        assert len(listener.lines) == 5


def test_changes_made_while_stopped_are_delivered(
    durable: StreamConfig, environment: dict[str, str], journal: Path
) -> None:
    with Process(*ONE, env=environment) as listener:
        listener.wait_for("Quit with")
        Keeper.objects.create(name="Ada")
        assert labels(journal, 1) == ["Ada"]
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0

    Keeper.objects.bulk_create([Keeper(name="Bob"), Keeper(name="Eve")])
    Keeper.objects.filter(name="Bob").update(name="Rob")

    with Process(*ONE, env=environment) as listener:
        assert labels(journal, 4) == ["Ada", "Bob", "Eve", "Rob"]
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    assert len({line["id"] for line in read_journal(journal)}) == 4


@pytest.mark.usefixtures("durable")
def test_drain_exits_after_the_backlog(
    environment: dict[str, str], journal: Path
) -> None:
    Keeper.objects.bulk_create(Keeper(name=str(n)) for n in range(2500))

    with Process(*ONE, "--drain", env=environment) as listener:
        assert listener.wait() == 0, listener.output
    assert labels(journal, 0) == [str(n) for n in range(2500)]
    with Process(*ONE, "--drain", env=environment) as listener:
        assert listener.wait() == 0, listener.output
    assert len(read_journal(journal)) == 2500


def test_first_signal_finishes_the_current_transaction(
    durable: StreamConfig,
    environment: dict[str, str],
    journal: Path,
    sql: psycopg.Connection[Any],
) -> None:
    sql.execute("SELECT pg_advisory_lock(1)")
    with Process(*ONE, env=environment) as listener:
        listener.wait_for("Quit with")
        Keeper.objects.bulk_create(
            [Keeper(name="before"), Keeper(name="wait for 1"), Keeper(name="after")]
        )
        Keeper.objects.create(name="next transaction")
        labels(journal, 1)
        eventually(lambda: _waits_for_lock(sql), "the receiver's work")
        listener.signal(signal.SIGTERM)
        sql.execute("SELECT pg_advisory_unlock(1)")
        assert listener.wait() == 0

    assert labels(journal, 3) == ["before", "wait for 1", "after"]
    slot = slots.find(sql, durable.slot_name)
    assert slot is not None
    assert slot.active_pid is None
    with Process(*ONE, "--drain", env=environment) as listener:
        assert listener.wait() == 0
    # Acknowledged changes are not delivered again.
    assert labels(journal, 4)[3:] == ["next transaction"]


@pytest.mark.usefixtures("durable")
def test_second_signal_exits_immediately(
    environment: dict[str, str], sql: psycopg.Connection[Any]
) -> None:
    sql.execute("SELECT pg_advisory_lock(1)")
    with Process(*ONE, env=environment) as listener:
        listener.wait_for("Quit with")
        Keeper.objects.create(name="wait for 1")
        eventually(lambda: _waits_for_lock(sql), "the receiver's work")
        listener.signal(signal.SIGINT)
        # Once the first signal is handled, a second one has its default effect.
        eventually(lambda: _caught(listener.pid, signal.SIGINT) is False)
        listener.signal(signal.SIGINT)
        assert listener.wait() == -signal.SIGINT
    sql.execute("SELECT pg_advisory_unlock(1)")
    eventually(lambda: not _waits_for_lock(sql))


@pytest.mark.usefixtures("durable")
def test_transaction_is_repeated_after_exit_in_receiver(
    environment: dict[str, str], journal: Path
) -> None:
    Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="die")])
    with Process(*ONE, env=environment) as listener:
        assert listener.wait() == 9
    Keeper.objects.filter(name="die").delete()
    with Process(*ONE, env={**environment, "ZOO_IMMORTAL": "1"}) as listener:
        assert labels(journal, 4)[:2] == ["Ada", "Ada"]
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    ids = [line["id"] for line in read_journal(journal)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.usefixtures("durable")
def test_failed_receiver_is_shown_with_traceback(
    environment: dict[str, str],
) -> None:
    Keeper.objects.create(name="raise")
    strict = '{"ON_ERROR": "stop", "MAX_RETRIES": 1, "RETRY_BACKOFF": 0.01}'
    with Process(*ONE, env={**environment, "ZOO_STREAM": strict}) as listener:
        assert listener.wait() == 1
    name = "tests.zoo.journal.keep.<locals>.obey"
    (warning,) = (line for line in listener.lines if "retrying in 0.01 s" in line)
    assert warning.startswith(f"{name} failed at 0/")
    assert warning.endswith(": RuntimeError: the keeper said so")
    assert f"The receiver {name} failed at 0/" in listener.output
    assert "RuntimeError: the keeper said so" in listener.output


def test_streams_of_several_databases_run_in_one_process(
    durable: StreamConfig, environment: dict[str, str], journal: Path
) -> None:
    with Process("walex_setup", "--stream", "second", env=environment) as setup:
        assert setup.wait() == 0, setup.output
    try:
        with Process("walex_listen", env=environment) as listener:
            listener.wait_for("stream default")
            listener.wait_for(f"stream second on database {_database('second')}")
            listener.wait_for("Quit with")
            Keeper.objects.create(name="here")
            labels(journal, 1)
            Keeper.objects.using("second").create(name="there")
            labels(journal, 2)
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0
    finally:
        arguments = ("walex_teardown", "--stream", "second", "--no-input")
        with Process(*arguments, env=environment) as teardown:
            assert teardown.wait() == 0, teardown.output
    delivered = [
        (line["stream"], line["source"]["db"], line["label"])
        for line in read_journal(journal)
    ]
    assert delivered == [("default", "default", "here"), ("second", "second", "there")]


@pytest.mark.usefixtures("durable")
def test_failing_stream_stops_the_others_cleanly(
    environment: dict[str, str],
) -> None:
    with Process("walex_listen", env=environment) as listener:
        assert listener.wait() == 1
    assert 'second: The publication "zoo_events" does not exist.' in listener.output
    assert "Traceback" not in listener.output


@pytest.mark.usefixtures("durable")
def test_reload_restarts_when_code_changes(
    environment: dict[str, str], journal: Path, tmp_path: Path
) -> None:
    module = tmp_path / "reloaded.py"
    module.write_text("")
    env = {**environment, "PYTHONPATH": str(tmp_path), "ZOO_IMPORT": "reloaded"}
    with Process(*ONE, "--reload", env=env) as listener:
        listener.wait_for("Quit with")
        Keeper.objects.create(name="before")
        labels(journal, 1)
        touched = -math.inf

        def is_restarted() -> bool:
            # The reloader checks modification times once a second. It does not notice
            # a change before its first check.
            nonlocal touched
            if time.monotonic() - touched > _RELOAD_TIMEOUT:
                touched = time.monotonic()
                later = time.time() + touched
                os.utime(module, (later, later))
            return listener.output.count("Quit with") == 2

        eventually(is_restarted, "the restart")
        Keeper.objects.create(name="after")
        assert labels(journal, 2) == ["before", "after"]
        listener.signal(signal.SIGINT)
        listener.wait()


def _database(alias: str) -> str:
    return str(connections[alias].settings_dict["NAME"])


def _waits_for_lock(sql: psycopg.Connection[Any]) -> bool:
    waiting = sql.execute(
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    )
    return waiting.fetchone() is not None


def _caught(pid: int, number: signal.Signals) -> bool:
    """Return whether a process handles a signal itself. Source: proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)
