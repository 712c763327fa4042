"""Log records, their fields, and what they must not contain."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from psycopg.conninfo import conninfo_to_dict

from tests.listening import Connect, Listening
from tests.process import ROOT, Process, eventually
from tests.zoo.models import Keeper
from walex_django import Event
from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.filters import Filter
from walex_django.listening.listener import Listener, Listeners
from walex_django.models import ParkedEvent
from walex_django.replication.connection import Connection
from walex_django.signals import post_db_insert

from .stream import OwnStream, Stream

pytestmark = pytest.mark.django_db(transaction=True)

LOGGING = (ROOT / "docs/logging.md").read_text()

Logged = Callable[[str], logging.LogRecord]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Return a function that waits for the only record that contains a text."""
    caplog.set_level(logging.INFO, logger="walex_django")

    def matching(text: str) -> list[logging.LogRecord]:
        return [each for each in caplog.records if text in each.getMessage()]

    def logged(text: str) -> logging.LogRecord:
        eventually(lambda: len(matching(text)) > 0, f"a record of {text!r}")
        (record,) = matching(text)
        return record

    return logged


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    plain = vars(logging.LogRecord("", 0, "", 0, "", None, None))
    own = {key: value for key, value in vars(record).items() if key not in plain}
    own.pop("message", None)
    return own


def test_failed_receiver_is_logged(
    durable: StreamConfig, connect: Connect, logged: Logged
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("it would not")

    connect(post_db_insert, fail, Keeper)
    config = replace(durable, max_retries=1, retry_backoff=0.001)
    with Listening(config) as listening:
        Keeper.objects.create(name="Ada")
        (event,) = listening.wait_for(1)
    receiver = f"{fail.__module__}.{fail.__qualname__}"
    common = {"stream": "default", "slot": "zoo_walex", "receiver": receiver}

    retried = logged(f"{receiver} failed at {event.id}, retrying in 0.001 s")
    assert retried.name == "walex_django.delivery.dispatch"
    assert retried.levelno == logging.WARNING
    assert _fields(retried) == {**common, "event_id": event.id, "attempts": 1}
    failed = logged(f"{receiver} failed 2 times at {event.id}; the call is parked")
    assert failed.levelno == logging.ERROR
    assert _fields(failed) == {**common, "event_id": event.id, "attempts": 2}
    assert failed.exc_info
    assert str(failed.exc_info[1]) == "it would not"


def test_receiver_that_fails_without_retries_is_logged(
    durable: StreamConfig, connect: Connect, logged: Logged
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("it would not")

    connect(post_db_insert, fail, Keeper)
    with Listening(replace(durable, max_retries=0)) as listening:
        Keeper.objects.create(name="Ada")
        (event,) = listening.wait_for(1)

    assert _fields(logged(f"failed once at {event.id}; "))["attempts"] == 1


def test_receiver_that_loses_connection_of_its_transaction_is_logged(
    atomic: StreamConfig, connect: Connect, logged: Logged
) -> None:
    def fail(**kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    connect(post_db_insert, fail, Keeper)
    with Listening(replace(atomic, max_retries=0)):
        Keeper.objects.create(name="Ada")
        message = logged("Retrying until it succeeds.").getMessage()
        eventually(ParkedEvent.objects.exists, "the parked call")

    assert "The database transaction ended during the receiver " in message
    assert ".." not in message
    assert "\n" not in message


def test_failed_filter_is_logged(durable: StreamConfig, logged: Logged) -> None:
    def fail(event: Event) -> bool:
        raise RuntimeError(event.id)

    filters = {"zoo.Keeper": Filter(where=fail)}
    with Listening(replace(durable, filters=filters)) as listening:
        Keeper.objects.create(name="Ada")
        (event,) = listening.wait_for(1)

    assert _fields(logged("The filter's where failed")) == {
        "stream": "default",
        "slot": "zoo_walex",
        "event_id": event.id,
        "table": "public.zoo_keeper",
    }


def test_lost_connection_is_logged(
    durable: StreamConfig, logged: Logged, sql: Connection
) -> None:
    with Listening(durable):
        sql.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = 'zoo_walex'"
        )
        reconnected = logged("Stream default reconnected")
    common = {"stream": "default", "slot": "zoo_walex"}
    lost = logged("Retrying until it succeeds.")

    assert lost.name == reconnected.name == "walex_django.listening.listener"
    assert lost.levelno == logging.WARNING
    assert _fields(lost) == {**common, "state": "retrying"}
    assert reconnected.levelno == logging.INFO
    assert _fields(reconnected) == {**common, "state": "running"}


def test_pause_is_logged(
    durable: StreamConfig, logged: Logged, sql: psycopg.Connection[Any]
) -> None:
    common = {"stream": "default", "slot": "zoo_walex"}
    with Listening(durable):
        stored.change(durable, "replace", "PAUSED", True)
        try:
            paused = logged("is paused")
            assert paused.levelno == logging.INFO
            assert _fields(paused) == {**common, "state": "paused"}
            assert _fields(logged("reloaded its settings")) == common
        finally:
            stored.forget(durable, "PAUSED")
        resumed = logged("Stream default resumed")
        assert resumed.levelno == logging.INFO
        assert _fields(resumed) == {**common, "state": "running"}


def test_failure_of_running_stream_is_logged(
    durable: StreamConfig, connect: Connect, logged: Logged
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("it would not")

    connect(post_db_insert, fail, Keeper)
    config = replace(durable, max_retries=0, on_error="stop")
    listeners = Listeners([Listener(config)])
    listeners.start()
    Keeper.objects.create(name="Ada")
    listeners.join(30)
    assert listeners.failures

    ended = logged("Stream default failed: The receiver ")
    assert ended.levelno == logging.ERROR
    assert _fields(ended) == {
        "stream": "default",
        "slot": "zoo_walex",
        "state": "failed",
    }
    assert "it would not" not in ended.getMessage()


def test_failure_to_start_is_reported_by_the_command_only(
    config: StreamConfig, caplog: pytest.LogCaptureFixture
) -> None:
    listeners = Listeners([Listener(replace(config, durable_slot=True))])
    listeners.start()
    listeners.join(30)

    assert listeners.failures
    assert not [
        each for each in caplog.records if "default failed" in each.getMessage()
    ]


def test_unreachable_server_is_logged_once(own_stream: OwnStream) -> None:
    port = int(str(conninfo_to_dict(own_stream.server.url())["port"]))
    with own_stream.listening() as listener:
        own_stream.server.stop("fast")
        with socket.create_server(("127.0.0.1", port)) as broken_server:
            # Each attempt connects a few times.
            for _ in range(8):
                broken_server.accept()[0].close()
        own_stream.server.start()
        listener.wait_for("Stream default reconnected")
        own_stream.write("Ada")
        eventually(lambda: own_stream.delivered() == ["Ada"], "the event")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    retries = [line for line in listener.lines if "Retrying" in line]
    # One line for the lost connection, and one for the failure to reconnect.
    assert (
        len(retries) == len({line.partition(" PostgreSQL")[0] for line in retries}) <= 2
    )
    assert "Traceback" not in listener.output


def test_password_is_not_logged(environment: dict[str, str]) -> None:
    for place in ({}, {"URL": "postgres://zoo:s3cret@127.0.0.1:1/zoo"}):
        env = {**environment, "ZOO_STREAM": json.dumps(place)}
        if not place:
            url = environment["ZOO_DATABASE_URL"]
            env["ZOO_DATABASE_URL"] = re.sub(r"//[^@]+@", "//nobody:s3cret@", url)
        options = ("--stream=default", "--no-wait", "--verbosity=3", "--traceback")
        with Process("walex_listen", *options, env=env) as listener:
            assert listener.wait() == 1
        assert "Cannot connect to PostgreSQL" in listener.output
        assert "s3cret" not in listener.output


def _blocks(section: str) -> list[str]:
    text = LOGGING.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_json_example_of_documentation_works(stream: Stream, tmp_path: Path) -> None:
    formatter, settings = _blocks("JSON")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/logs.py").write_text(formatter)
    (tmp_path / "json_settings.py").write_text(
        f"from tests.settings import *\n{settings}"
    )
    stream.env.update(
        PYTHONPATH=str(tmp_path),
        DJANGO_SETTINGS_MODULE="json_settings",
        ZOO_STREAM=json.dumps({"MAX_RETRIES": 1, "RETRY_BACKOFF": 0.01}),
    )
    with stream.listening() as listener:
        stream.write("raise")
        listener.wait_for("the call is parked, see walex_replay")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    retried, failed = [
        json.loads(line) for line in listener.lines if line.startswith("{")
    ]
    parked = ParkedEvent.objects.get()
    assert retried["level"] == "WARNING"
    assert failed["level"] == "ERROR"
    assert failed["logger"] == "walex_django.delivery.dispatch"
    for entry in (retried, failed):
        assert entry["stream"] == "default"
        assert entry["slot"] == "zoo_walex"
        assert entry["receiver"] == parked.receiver
        assert entry["event_id"] == parked.event_id
    assert "RuntimeError: the keeper said so" in failed["traceback"]


def test_every_logger_is_documented() -> None:
    documented = set(
        re.findall(r"^\| `(walex_django(?:\.\w+)+)` \|", LOGGING, re.MULTILINE)
    )
    existing = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "walex_django").rglob("*.py")
        if re.search(r"^logger = ", path.read_text(), re.MULTILINE)
    }

    assert documented == existing


def test_every_field_is_documented() -> None:
    (fields,) = re.findall(r"FIELDS = \((.*?)\n\)", LOGGING, re.DOTALL)
    documented = set(re.findall(r'"(\w+)"', fields))
    used = set()
    for path in (ROOT / "walex_django").rglob("*.py"):
        for extra in re.findall(r"\bextra=\{(.*?)\}", path.read_text(), re.DOTALL):
            used |= set(re.findall(r'"(\w+)":', extra))

    assert documented == used | {"stream", "slot"}
