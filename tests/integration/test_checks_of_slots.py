"""Checks find problems of a slot, and their hints fix them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.core.management.base import CommandError

from tests.listening import Listening
from tests.process import eventually
from walex_django.conf.stream import StreamConfig
from walex_django.replication import slots

from .checking import change_stream, checked, command_of, diagnosed, run_command_of
from .stream import OwnStream, Stream
from .test_commands import run
from .test_mistakes import ONE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])


@pytest.fixture
def left_behind(durable: StreamConfig, sql: psycopg.Connection[Any]) -> Iterator[str]:
    """A slot that belongs to no stream."""
    sql.execute("SELECT pg_create_logical_replication_slot('old_walex', 'pgoutput')")
    yield "old_walex"
    if slots.find(sql, "old_walex"):
        slots.drop(sql, "old_walex")


def test_w040_missing_slot(durable: StreamConfig, sql: psycopg.Connection[Any]) -> None:
    slots.drop(sql, durable.slot_name)
    found = diagnosed()["W040"]
    assert found.message == 'The slot "zoo_walex" does not exist.'

    run_command_of(found.hint, *ONE)
    assert "W040" not in diagnosed()


def test_w040_ignores_temporary_slots(
    durable: StreamConfig, sql: psycopg.Connection[Any], settings: Any
) -> None:
    slots.drop(sql, durable.slot_name)
    change_stream(settings, DURABLE_SLOT=False)

    assert diagnosed() == {}


@pytest.mark.parametrize(
    "make",
    [
        "SELECT pg_create_logical_replication_slot('zoo_walex', 'test_decoding')",
        "SELECT pg_create_physical_replication_slot('zoo_walex')",
    ],
)
def test_w041_slot_of_another_kind(
    make: str, durable: StreamConfig, sql: psycopg.Connection[Any], settings: Any
) -> None:
    slots.drop(sql, durable.slot_name)
    sql.execute(make.encode())
    found = diagnosed()
    assert found["W041"].message.startswith('The slot "zoo_walex" already exists')
    assert "W045" not in found
    assert found["W041"].hint == "Give this stream a different SLOT_NAME."

    change_stream(settings, SLOT_NAME="zoo_other")
    run("walex_setup", *ONE)
    assert not {"W040", "W041"} & diagnosed().keys()
    slots.drop(sql, "zoo_other")


@pytest.mark.parametrize(
    "own_stream", [{"max_slot_wal_keep_size": "1MB"}], indirect=True
)
def test_w042_lost_slot(own_stream: OwnStream) -> None:
    assert "W042" not in checked(own_stream.env)

    def exceed_limit() -> bool:
        own_stream.write("burnt")
        own_stream.execute("SELECT pg_switch_wal()")
        own_stream.execute("CHECKPOINT")
        query = "SELECT wal_status FROM pg_replication_slots"
        return own_stream.execute(query) == [("lost",)]

    eventually(exceed_limit, "the loss")
    found = checked(own_stream.env)["W042"]
    assert 'The slot "zoo_walex" is lost' in found.message

    own_stream.run(*command_of(found.hint), *ONE)
    assert "W042" not in checked(own_stream.env)


def test_w043_recreated_slot(stream: Stream) -> None:
    stream.deliver("one")
    assert "W043" not in checked(stream.env)
    stream.recreate_slot("lost")
    found = checked(stream.env)["W043"]
    assert "was recreated, or moved by another client" in found.message

    stream.run(*command_of(found.hint), *ONE)
    assert "W043" not in checked(stream.env)


def test_w043_dropped_slot(stream: Stream) -> None:
    stream.deliver("one")
    stream.drop_slot()
    found = checked(stream.env)
    assert 'The slot "zoo_walex" no longer exists' in found["W043"].message
    assert "W040" not in found

    stream.run(*command_of(found["W043"].hint), *ONE)
    assert "W043" not in checked(stream.env)


def test_w044_durable_slot_instead_of_temporary_one(
    durable: StreamConfig, settings: Any
) -> None:
    change_stream(settings, DURABLE_SLOT=False)
    found = diagnosed()["W044"]
    assert "this stream would create a temporary one" in found.message

    run_command_of(found.hint, "--no-input", *ONE)
    assert "W044" not in diagnosed()


def test_w045_unused_slot(left_behind: str, sql: psycopg.Connection[Any]) -> None:
    found = diagnosed()["W045"]
    assert 'Nothing reads the slot "old_walex"' in found.message
    assert re.search(r"retains [\d.]+ \w+ of WAL", found.message)

    assert run_command_of(found.hint, "--dry-run") == (
        "SELECT pg_catalog.pg_drop_replication_slot('old_walex');\n"
    )
    assert "W045" in diagnosed()
    assert run_command_of(found.hint, "--no-input") == (
        'default: drop the slot "old_walex"\n'
    )
    assert "W045" not in diagnosed()


def test_w045_ignores_slots_in_use(
    left_behind: str, sql: psycopg.Connection[Any], config: StreamConfig
) -> None:
    def is_read() -> bool:
        slot = slots.find(sql, left_behind)
        return slot is not None and slot.active_pid is not None

    with Listening(replace(config, durable_slot=True, slot_name=left_behind)):
        eventually(is_read, "the reader")
        assert "W045" not in diagnosed()
        with pytest.raises(CommandError, match="is in use by the process"):
            run("walex_teardown", "--slot", left_behind, "--no-input")
    eventually(lambda: not is_read(), "the end of the reader")


def test_teardown_of_slot_asks_for_confirmation(
    left_behind: str, sql: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "no")
    with pytest.raises(CommandError, match=r"Nothing was dropped\."):
        run("walex_teardown", "--slot", left_behind)
    assert slots.find(sql, left_behind)


def test_teardown_of_missing_slot_fails(durable: StreamConfig) -> None:
    with pytest.raises(CommandError, match='The slot "nothing" does not exist'):
        run("walex_teardown", "--slot", "nothing", "--no-input")


def test_teardown_of_stream_slot_names_the_command(durable: StreamConfig) -> None:
    with pytest.raises(CommandError) as raised:
        run("walex_teardown", "--slot", "zoo_walex", "--no-input")
    assert command_of(str(raised.value)) == ["walex_teardown", *ONE]
