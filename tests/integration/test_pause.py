"""Streams that are paused and resumed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import transaction

from tests.listening import Connect, Listening
from tests.process import Process, eventually
from tests.zoo.models import Keeper
from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerState, StreamSetting
from walex_django.monitoring import reporter
from walex_django.monitoring.reporter import Reporter
from walex_django.replication import slots
from walex_django.replication.connection import Connection
from walex_django.signals import post_db_insert

from .stream import OwnStream, Stream
from .test_mistakes import ONE

pytestmark = pytest.mark.django_db(transaction=True)


def pause(config: StreamConfig, *, paused: bool = True) -> None:
    stored.change(config, "replace", "PAUSED", paused)


@pytest.fixture(autouse=True)
def resumed(durable: StreamConfig) -> Iterator[None]:
    """Resume the stream after the test."""
    yield
    stored.forget(durable, "PAUSED")


def names(listening: Listening) -> list[str]:
    return [event.instance.name for event in listening.events]  # type: ignore[union-attr]


def is_paused(listening: Listening) -> bool:
    return listening.report.state == ListenerState.PAUSED


def passing(message: object, deliver: Callable[[Any], None]) -> None:
    """A middleware that passes every message on."""
    deliver(message)


@pytest.mark.parametrize("middleware", [None, passing])
@pytest.mark.parametrize("is_durable", [True, False])
def test_paused_stream_delivers_nothing_and_loses_nothing(
    durable: StreamConfig,
    sql: Connection,
    is_durable: bool,
    middleware: Callable[..., object] | None,
) -> None:
    config = replace(durable, message_middleware=middleware)
    if not is_durable:
        config = replace(config, durable_slot=False, slot_name="zoo_fleeting")
    with Listening(config) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        pause(config)
        eventually(lambda: is_paused(listening))
        for name in ("Grace", "Barbara"):
            Keeper.objects.create(name=name)
        slot = slots.find(sql, config.slot_name)
        assert slot
        assert slot.active_pid == listening.report.backend_pid
        assert names(listening) == ["Ada"]
        pause(config, paused=False)
        listening.wait_for(3)
        assert names(listening) == ["Ada", "Grace", "Barbara"]
        assert listening.report.state == ListenerState.RUNNING


@pytest.mark.parametrize("middleware", [None, passing])
def test_pause_in_a_backlog_waits_for_the_end_of_a_transaction(
    durable: StreamConfig,
    connect: Connect,
    middleware: Callable[..., object] | None,
) -> None:
    for number in range(20):
        with transaction.atomic():
            Keeper.objects.create(name=f"{number} a")
            Keeper.objects.create(name=f"{number} b")

    def hold(event: Any, **kwargs: object) -> None:
        if event.new_record["name"] == "7 a":
            # As the reporter does, which need not wait for the message in the WAL.
            StreamSetting.objects.create(stream="default", key="PAUSED", value=True)
            listening.report.hold.set()

    connect(post_db_insert, hold)
    listening = Listening(replace(durable, message_middleware=middleware))
    with listening:
        eventually(lambda: is_paused(listening))
        assert names(listening)[-1] == "7 b"
        assert len(listening.events) == 16
        pause(durable, paused=False)
        listening.wait_for(40)
        assert names(listening) == [f"{n} {x}" for n in range(20) for x in "ab"]


def test_reporter_notices_a_pause_before_it_arrives_in_the_wal(
    durable: StreamConfig, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_TICK", 0.02)
    StreamSetting.objects.create(stream="default", key="PAUSED", value=False)
    Keeper.objects.bulk_create(Keeper(name=f"{number}") for number in range(10))

    def busy(event: Any, **kwargs: object) -> None:
        StreamSetting.objects.filter(key="PAUSED").update(value=True)
        eventually(listening.report.hold.is_set)

    connect(post_db_insert, busy)
    listening = Listening(durable)
    with listening:
        writer = Reporter([listening.report])
        writer.start()
        eventually(lambda: is_paused(listening))
        writer.close()


def test_server_does_not_time_out_a_paused_stream(own_stream: OwnStream) -> None:
    own_stream.execute("ALTER SYSTEM SET wal_sender_timeout = '1s'")
    own_stream.execute("SELECT pg_reload_conf()")
    with own_stream.listening() as listener:
        own_stream.run("walex_config", "default", "replace", "PAUSED", "true")
        listener.wait_for("is paused")
        # More than fits into its socket buffer, for longer than its timeout.
        for _ in range(25):
            own_stream.execute(
                "SELECT pg_logical_emit_message(true, 'noise', repeat('x', 1000000)),"
                " pg_sleep(0.1)"
            )
        own_stream.write("last")
        own_stream.run("walex_config", "default", "replace", "PAUSED", "false")
        listener.wait_for("Stream default resumed")
        eventually(lambda: own_stream.delivered() == ["last"])
        assert "Retrying" not in listener.output


def test_listener_starts_paused_and_can_be_resumed(stream: Stream) -> None:
    stream.run("walex_config", "default", "replace", "PAUSED", "true")
    stream.write("Ada")
    with Process("walex_listen", *ONE, env=stream.env) as listener:
        line = listener.wait_for("is paused")
        command = line.partition("manage.py ")[2].split()
        assert stream.delivered() == []
        stream.run(*command)
        eventually(lambda: stream.delivered() == ["Ada"])
        stream.run("walex_config", "default", "replace", "PAUSED", "true")
        eventually(lambda: listener.output.count("is paused") == 2)
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0


def test_paused_stream_cannot_be_drained(stream: Stream) -> None:
    stream.run("walex_config", "default", "replace", "PAUSED", "true")
    stream.write("Ada")
    with Process("walex_listen", "--drain", *ONE, env=stream.env) as listener:
        assert listener.wait() == 1
        assert listener.lines[-1].endswith(
            "The stream 'default' is paused. To resume it, run: python manage.py"
            " walex_config default replace PAUSED false"
        )
    assert stream.delivered() == []


def test_stream_can_be_paused_in_the_settings(stream: Stream) -> None:
    env = {**stream.env, "ZOO_STREAM": json.dumps({"PAUSED": True})}
    with Process("walex_listen", *ONE, env=env) as listener:
        listener.wait_for("is paused")
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
