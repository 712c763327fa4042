"""How streams are, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command

from tests.listening import Listening
from tests.process import Process
from tests.zoo.models import Keeper
from walex_django import runtime
from walex_django.models import ParkedEvent
from walex_django.replication import slots
from walex_django.replication.connection import Connection
from walex_django.stream_config import StreamConfig

pytestmark = pytest.mark.django_db(transaction=True)

Shown = Callable[..., str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    def shown(*options: str) -> str:
        call_command("walex_status", "--stream=default", *options)
        return capsys.readouterr().out

    return shown


def _told(shown: Shown) -> dict[str, Any]:
    (stream,) = json.loads(shown("--json"))
    return dict(stream)


def test_a_stream_that_nobody_reads(durable: StreamConfig, shown: Shown) -> None:
    Keeper.objects.create(name="Ada")

    text = shown()
    assert "default on database default (PostgreSQL" in text
    assert "slot         zoo_walex: durable, nobody reads it" in text
    assert "publication  zoo_events: legacy.audit_log" in text
    assert "parked       nothing" in text
    told = _told(shown)
    assert told["slot"]["active_pid"] is None
    assert told["slot"]["lag"] > 0
    assert told["slot"]["retained"] >= told["slot"]["lag"]


def test_a_stream_that_is_read(
    durable: StreamConfig, shown: Shown, sql: Connection
) -> None:
    with Listening(durable):
        slot = slots.find(sql, "zoo_walex")
        assert slot
        assert f"read from 127.0.0.1 by process {slot.active_pid} since 20" in shown()
        assert _told(shown)["slot"]["active_pid"] == slot.active_pid


def test_a_stream_without_its_slot(config: StreamConfig, shown: Shown) -> None:
    assert "slot         zoo_walex: is not there" in shown()
    assert _told(shown)["slot"] is None


def test_changed_settings_and_parked_calls(durable: StreamConfig, shown: Shown) -> None:
    ParkedEvent.objects.create(
        stream="default", signal="post_db_insert", receiver="zoo.adopt", attempts=6
    )
    runtime.change(durable, "add", "SUBSCRIPTIONS", "legacy.nobody_knows")
    try:
        text = shown()
        changed = _told(shown)["changed"]
    finally:
        runtime.forget(durable, "SUBSCRIPTIONS")

    assert "parked       1" in text
    assert '  changed      SUBSCRIPTIONS = ["zoo.*", "legacy.*",' in text
    assert changed == {"SUBSCRIPTIONS": ["zoo.*", "legacy.*", "legacy.nobody_knows"]}


def test_a_server_that_is_away_is_told_in_one_line(environment: dict[str, str]) -> None:
    env = {**environment, "ZOO_DATABASE_URL": "postgres://zoo:s3cret@127.0.0.1:1/zoo"}
    with Process("walex_status", "--stream=default", env=env) as process:
        assert process.wait() == 1
        (line,) = process.lines
    assert "Cannot connect to PostgreSQL" in line
    assert "s3cret" not in line
