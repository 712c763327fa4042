"""The status of streams on the command line."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.process import ROOT, Process, eventually, read_journal
from tests.zoo.models import Keeper
from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerReport, ParkedEvent
from walex_django.monitoring import inspection
from walex_django.replication import slots
from walex_django.replication.connection import Connection

from .stream import OwnStream
from .test_reports import known_to_run

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

Shown = Callable[..., str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    def shown(*options: str) -> str:
        call_command("walex_status", "--stream=default", *options)
        return capsys.readouterr().out

    return shown


def _as_json(shown: Shown) -> dict[str, Any]:
    (stream,) = json.loads(shown("--json"))["streams"]
    return dict(stream)


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections and never respond; yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        yield f"postgres://zoo:s3cret@127.0.0.1:{port}/zoo"


def test_stream_without_a_reader(durable: StreamConfig, shown: Shown) -> None:
    Keeper.objects.create(name="Ada")

    text = shown()
    assert "default on database default (PostgreSQL" in text
    assert "state        stopped" in text
    assert "slot         zoo_walex: durable, no reader" in text
    assert "publication  zoo_events: legacy.audit_log" in text
    assert "parked       none" in text
    assert re.search(r"retained     [\d.]+ \w+ of WAL, wal_status reserved\n", text)
    status = _as_json(shown)
    assert status["slot"]["active_pid"] is None
    assert status["slot"]["lag"] > 0
    assert status["slot"]["retained"] >= status["slot"]["lag"]


def test_stream_with_a_reader(
    durable: StreamConfig, shown: Shown, sql: Connection
) -> None:
    with known_to_run(durable):
        slot = slots.find(sql, "zoo_walex")
        assert slot
        text = shown()
        assert "state        running since 20" in text
        assert f"read by 127.0.0.1 (walsender {slot.active_pid}) since 20" in text
        status = _as_json(shown)
    assert status["slot"]["active_pid"] == slot.active_pid
    assert isinstance(status["age"], float)


def test_stream_without_a_slot(config: StreamConfig, shown: Shown) -> None:
    text = shown()
    assert "state        no slot" in text
    assert "slot         zoo_walex: does not exist" in text
    assert _as_json(shown)["slot"] is None


@pytest.mark.usefixtures("durable")
def test_listeners_and_their_deliveries(
    environment: dict[str, str], journal: Path, shown: Shown
) -> None:
    one = ("walex_listen", "--stream=default")
    with Process(*one, env=environment) as first:
        first.wait_for("Quit with")
        with Process(*one, env=environment) as second:
            second.wait_for("Waiting to take over")
            eventually(lambda: "standing by" in shown(), "the standby's report")
            text = shown()
            status = _as_json(shown)
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            eventually(lambda: len(read_journal(journal)) == 2, "the events")
            # They report again when they end, not only every ten seconds.
            for listener in (second, first):
                listener.signal(signal.SIGTERM)
                assert listener.wait() == 0
    ended = shown()
    assert f"listeners    {socket.gethostname()}, process " in text
    assert f"process {first.pid}: running since " in text
    assert f"process {second.pid}: standing by since " in text
    assert "delivered    2 events, 1 transaction, no failed calls" in ended
    assert re.search(r"last event   [0-9A-F]+/[0-9A-F]+:\d+, committed 20", ended)
    assert {each["state"] for each in status["listeners"]} == {"running", "standby"}


def test_changed_settings_and_parked_calls(durable: StreamConfig, shown: Shown) -> None:
    ParkedEvent.objects.create(
        stream="default", signal="post_db_insert", receiver="zoo.adopt", attempts=6
    )
    stored.change(durable, "add", "SUBSCRIPTIONS", "legacy.nobody_knows")
    try:
        text = shown()
        changed = _as_json(shown)["changed"]
    finally:
        stored.forget(durable, "SUBSCRIPTIONS")

    assert "parked       1" in text
    assert '  changed      SUBSCRIPTIONS = ["zoo.*", "legacy.*",' in text
    assert changed == {"SUBSCRIPTIONS": ["zoo.*", "legacy.*", "legacy.nobody_knows"]}


@pytest.mark.usefixtures("durable")
def test_only_the_first_tables_are_listed(shown: Shown, sql: Connection) -> None:
    names = [f"legacy.many_{number}" for number in range(5)]
    for name in names:
        sql.execute(f"CREATE TABLE {name} (id int)")
        sql.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
        sql.execute(f"ALTER PUBLICATION zoo_events ADD TABLE {name}")
    try:
        short, long = _publication(shown()), _publication(shown("-v", "2"))
        tables = _as_json(shown)["tables"]
    finally:
        for name in names:
            sql.execute(f"DROP TABLE {name}")

    assert short.endswith(f", and {len(tables) - 10} more, {len(tables)} in all")
    assert short.count(", ") == 11
    assert long.count(", ") == len(tables) - 1
    assert ", legacy.many_4 (full), " in long
    assert {(each["name"], each["replica_identity"]) for each in tables} >= {
        ("public.zoo_keeper", "key"),
        ("legacy.many_4", "full"),
    }


def _publication(text: str) -> str:
    (line,) = [line for line in text.splitlines() if "  publication " in line]
    return line


@pytest.mark.usefixtures("durable")
def test_other_slots_of_the_server(shown: Shown, sql: Connection) -> None:
    for name in ("zoo_left_behind", "second_walex"):
        sql.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    try:
        text = shown()
        others = json.loads(shown("--json"))["other_slots"]
    finally:
        for name in ("zoo_left_behind", "second_walex"):
            sql.execute("SELECT pg_drop_replication_slot(%s)", [name])

    assert re.search(
        r"^  zoo_left_behind: logical, database test_\w+, durable, no reader,"
        r" [\d.]+ \w+ of WAL; orphaned$",
        text,
        re.MULTILINE,
    )
    (other,) = [each for each in others if each["name"] == "zoo_left_behind"]
    assert other["orphaned"]
    # It belongs to a stream in the settings that was not selected.
    assert "second_walex" not in text


@pytest.mark.usefixtures("durable")
def test_problem_is_shown_with_its_fix(shown: Shown, sql: Connection) -> None:
    assert not _problems(shown(), "public.zoo_keeper")
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")
    text = shown()
    (line,) = _problems(text, "public.zoo_keeper")
    assert re.match(r"  problem      W\d{3}: ", line)
    lines = text.splitlines()
    hint = lines[lines.index(line) + 1]
    assert hint.startswith("               Run: python manage.py walex_setup")
    problems = _as_json(shown)["problems"]
    assert any("public.zoo_keeper" in each["message"] for each in problems)


def _problems(text: str, of: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if line.startswith("  problem ") and of in line
    ]


def test_unreachable_server_is_shown_as_a_state(environment: dict[str, str]) -> None:
    env = {**environment, "ZOO_DATABASE_URL": "postgres://zoo:s3cret@127.0.0.1:1/zoo"}
    with Process("walex_status", "--stream=default", env=env) as process:
        assert process.wait() == 1
        assert "  state        server unreachable: Cannot connect" in process.output
        assert process.lines[-1].endswith("could not be reached: default.")
    assert "Traceback" not in process.output
    assert "s3cret" not in process.output


def test_unresponsive_server_times_out(
    environment: dict[str, str],
) -> None:
    with silent_server() as url:
        began = time.monotonic()
        env = {**environment, "ZOO_DATABASE_URL": url}
        with Process("walex_status", "--check", "--stream=default", env=env) as process:
            assert process.wait() == 1
        # Including the start of the interpreter.
        assert time.monotonic() - began < inspection._TIMEOUT + 6
    assert process.lines == [
        "default: failing: state is unreachable (No answer for 5 s.)"
    ]


@pytest.mark.parametrize("options", [["--watch", "0.1"], ["--watch=0.1", "--json"]])
@pytest.mark.usefixtures("durable")
def test_watch_in_a_pipe_prints_one_status_after_another(
    environment: dict[str, str], options: list[str]
) -> None:
    with Process("walex_status", "--stream=default", *options, env=environment) as it:
        eventually(lambda: it.output.count("zoo_walex") > 6, "several statuses")
        it.signal(signal.SIGINT)
        assert it.wait() == 0
    assert "\x1b" not in it.output
    assert "Traceback" not in it.output
    if "--json" in options:
        assert [json.loads(line)["streams"][0]["name"] for line in it.lines]


@pytest.mark.usefixtures("durable")
def test_watch_ends_when_the_pipe_is_closed(environment: dict[str, str]) -> None:
    command = f"{sys.executable} manage.py walex_status --stream=default --watch 0.1"
    ended = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
        cwd=ROOT,
        env={**os.environ, **environment, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stdout.startswith("default on database default")
    assert ended.stderr == ""


@pytest.mark.usefixtures("durable")
def test_watch_in_a_terminal_redraws_the_screen(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "manage.py", "walex_status", "--watch", "0.1", *("-v", "2")],
        cwd=ROOT,
        env={
            **os.environ,
            **environment,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "LINES": "12",
            "COLUMNS": "80",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        drawn = ""
        while drawn.count("\x1b[H") < 3:
            drawn += os.read(ours, 65536).decode()
        process.send_signal(signal.SIGINT)
        try:
            while more := os.read(ours, 65536):
                drawn += more.decode()
        except OSError:
            pass  # how Linux reports the end
        assert process.wait() == 0
    os.close(ours)
    pages = drawn.split("\x1b[H")[1:]
    assert pages[0].startswith("Every 0.1 s: walex_status, 20")
    # A page does not scroll the one before out of the terminal.
    assert pages[1].count("\n") == 11
    assert "more lines" in pages[1]
    assert pages[-1].rstrip().endswith("\x1b[?7h")
    assert "Traceback" not in drawn


@contextmanager
def _exits_with(status: int) -> Iterator[None]:
    """Expect this exit status."""
    if status == 0:
        yield
        return
    with pytest.raises(SystemExit) as end:
        yield
    assert end.value.code == status


def _check(
    capsys: pytest.CaptureFixture[str], *options: str, ends: int = 0
) -> list[str]:
    with _exits_with(ends):
        call_command("walex_status", "--check", "--stream=default", *options)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_check_of_a_running_stream(
    durable: StreamConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with known_to_run(durable):
        assert _check(capsys, "--max-lag=1GB", "--max-age=60s") == ["default: OK"]
        (line,) = _check(capsys, "--json")
        assert json.loads(line) == {"status": "ok", "streams": {"default": []}}
    (line,) = _check(capsys, "--max-lag=1GB", ends=1)
    assert line.startswith("default: failing: state is stopped")


@pytest.mark.usefixtures("config")
def test_check_without_a_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert _check(capsys, ends=1) == ["default: failing: state is missing"]


def test_check_of_a_paused_stream(
    durable: StreamConfig, environment: dict[str, str], capsys: Any
) -> None:
    one = ("walex_listen", "--stream=default")
    with Process(*one, env=environment) as listener:
        listener.wait_for("Quit with")
        stored.change(durable, "replace", "PAUSED", True)
        try:
            listener.wait_for("is paused")
            Keeper.objects.create(name="waits")
            eventually(
                lambda: ListenerReport.objects.filter(state="paused").exists(),
                "the report",
            )
            assert _check(capsys) == ["default: OK"]
            (line,) = _check(capsys, "--max-lag=1", ends=1)
            assert re.fullmatch(
                r"default: failing: lag is \d+ bytes, more than 1", line
            )
            (line,) = _check(capsys, "--max-age=0s", ends=1)
            assert re.fullmatch(r"default: failing: age is \d+ s, more than 0", line)
        finally:
            stored.forget(durable, "PAUSED")


@pytest.mark.parametrize(
    "own_stream",
    [{"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}],
    indirect=True,
)
def test_lost_slot(own_stream: OwnStream) -> None:
    # Segments of 16 MB each, and a checkpoint that removes them.
    for _ in range(4):
        own_stream.write("Ada")
        own_stream.execute("SELECT pg_switch_wal()")
    own_stream.execute("CHECKPOINT")

    with Process("walex_status", "--stream=default", env=own_stream.env) as process:
        assert process.wait() == 0
    assert "  state        slot lost" in process.output
    assert "  slot         zoo_walex: durable, lost" in process.output
    options = ("--stream=default", "--check")
    with Process("walex_status", *options, env=own_stream.env) as process:
        assert process.wait() == 1
    assert process.lines == ["default: failing: state is lost (wal_removed)"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check", "--max-lag=1XB"], "'1XB' is not a valid size: write a number and"),
        (
            ["--check", "--max-age=soon"],
            "'soon' is not a valid age: write a number and",
        ),
        (["--watch=never"], "'never' is not a valid interval: use a number of"),
        (["--check", "--watch"], "--check and --watch cannot be used together"),
        (["--check", "--max-parked=-1"], "'-1' is not a valid number: write an"),
        (["--max-parked=1"], "--max-parked requires --check"),
        (["--max-lag=1GB"], "--max-lag requires --check"),
        (["--max-age=1s"], "--max-age requires --check"),
        (["--stream=nobody"], "nobody"),
    ],
)
def test_invalid_options(options: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=re.escape(message)):
        call_command("walex_status", *options)
