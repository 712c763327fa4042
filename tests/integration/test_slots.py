"""A slot that does not continue where the stream stopped is refused."""

from __future__ import annotations

import signal
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from tests.listening import Connect, Listening
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.replication.errors import SlotBroken, SlotMissing
from walex_django.signals import post_db_insert

from .mascots import Gates, cut_stream
from .stream import OwnStream, Stream, reached
from .test_mistakes import ONE, fails

pytestmark = pytest.mark.django_db(transaction=True)

ACCEPT = "run: python manage.py walex_setup --recreate-slot"


def refused(config: StreamConfig) -> SlotBroken:
    """Return why a listener refuses to start; setup must give the same reason."""
    with pytest.raises(SlotBroken) as raised, Listening(config):
        pass
    with pytest.raises(CommandError) as setup_raised:
        call_command("walex_setup", *ONE)
    assert str(setup_raised.value) == f"default: {raised.value}"
    return raised.value


def deliver(config: StreamConfig, *names: str) -> None:
    """Have a listener deliver these keepers and shut down cleanly."""
    with Listening(config) as listening:
        for name in names:
            Keeper.objects.create(name=name)
        listening.wait_for(len(names))


class TestRecreated:
    """Another client dropped the slot and created one with the same name."""

    def test_after_a_clean_shutdown(self, stream: Stream) -> None:
        stream.deliver("before")
        ((read,),) = stream.execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
        )
        start = stream.recreate_slot("lost")
        stream.write("kept")

        line = fails("walex_listen", stream.env)
        assert 'The slot "zoo_walex" was recreated, or moved by another client' in line
        assert f"it was read up to {read} and now starts at {start}." in line
        assert line.endswith(f"To continue from {start}, {ACCEPT}")
        assert fails("walex_listen", stream.env, "--drain") == line
        assert fails("walex_setup", stream.env) == line

        printed = stream.run("walex_setup", *ONE, "--recreate-slot")
        assert printed == [f"default: delivers changes from LSN {start} on"]
        stream.deliver("after")
        assert stream.delivered() == ["before", "kept", "after"]

    def test_after_kill_9(self, stream: Stream, durable: StreamConfig) -> None:
        stream.deliver("before", end=signal.SIGKILL)
        start = stream.recreate_slot("lost")

        error = refused(durable)
        assert f"and now starts at {start}." in error.reason
        assert error.hint.endswith(ACCEPT)

    def test_after_kill_9_and_a_reset_of_the_statistics(
        self, stream: Stream, durable: StreamConfig
    ) -> None:
        stream.execute("SELECT pg_stat_reset_replication_slot('zoo_walex')")
        stream.deliver("before", end=signal.SIGKILL)
        stream.recreate_slot("lost")

        refused(durable)

    @pytest.mark.usefixtures("durable")
    def test_before_the_first_listener(
        self, stream: Stream, durable: StreamConfig
    ) -> None:
        stream.drop_slot()
        call_command("walex_setup", *ONE)
        stream.recreate_slot("lost")

        refused(durable)

    def test_after_a_listener_that_delivered_nothing(
        self, stream: Stream, durable: StreamConfig
    ) -> None:
        deliver(durable)
        stream.recreate_slot("lost")

        refused(durable)

    def test_while_a_listener_is_running(
        self,
        stream: Stream,
        durable: StreamConfig,
        connect: Connect,
        sql: psycopg.Connection[Any],
    ) -> None:
        gates = Gates(1)
        connect(post_db_insert, gates)
        with Listening(durable) as listening:
            Keeper.objects.create(name="in progress")
            gates[0].wait()
            cut_stream(sql)
            stream.recreate_slot("lost")
            gates[0].open()
            assert isinstance(listening.wait_for_end(), SlotBroken)

    @pytest.mark.parametrize(
        ("end", "mode"),
        [
            (signal.SIGTERM, "fast"),
            (signal.SIGKILL, "fast"),
            # It discards the server's statistics, but the clean shutdown was recorded.
            (signal.SIGTERM, "immediate"),
        ],
    )
    def test_after_a_restart_of_the_server(
        self, own_stream: OwnStream, end: signal.Signals, mode: str
    ) -> None:
        own_stream.deliver("before", end=end)
        own_stream.restart_server(mode)
        start = own_stream.recreate_slot("lost")

        line = fails("walex_listen", own_stream.env)
        assert f"and now starts at {start}." in line


def test_slot_moved_by_another_client(stream: Stream, durable: StreamConfig) -> None:
    deliver(durable, "before")
    stream.write("lost")
    ((end,),) = stream.execute(
        "SELECT end_lsn::text"
        " FROM pg_replication_slot_advance('zoo_walex', pg_current_wal_flush_lsn())"
    )

    error = refused(durable)
    assert 'The slot "zoo_walex" was recreated, or moved by another client' in str(
        error
    )
    assert f"and now starts at {end}." in error.reason


class TestDropped:
    """Another client dropped the slot."""

    @pytest.fixture(autouse=True)
    def dropped(self, stream: Stream, durable: StreamConfig) -> None:
        deliver(durable, "before")
        stream.drop_slot()
        stream.write("lost")

    def test_dropped_slot_is_refused_until_it_is_recreated(
        self, stream: Stream
    ) -> None:
        line = fails("walex_listen", stream.env)
        assert 'The slot "zoo_walex" no longer exists. It was read up to ' in line
        assert "0/" in reached(line)
        assert line.endswith(f"To continue from the end of the WAL, {ACCEPT}")
        assert fails("walex_setup", stream.env) == line

        printed = stream.run("walex_setup", *ONE, "--recreate-slot")
        assert printed[0] == 'default: create the slot "zoo_walex"'
        assert printed[1].startswith("default: delivers changes from LSN ")
        stream.deliver("after")
        assert stream.delivered() == ["after"]

    def test_teardown_and_setup_start_over(self, durable: StreamConfig) -> None:
        call_command("walex_teardown", *ONE, "--no-input")
        call_command("walex_setup", *ONE)

        deliver(durable, "after")

    def test_running_listener_ends(
        self,
        stream: Stream,
        durable: StreamConfig,
        connect: Connect,
        sql: psycopg.Connection[Any],
    ) -> None:
        call_command("walex_setup", *ONE, "--recreate-slot")
        gates = Gates(1)
        connect(post_db_insert, gates)
        with Listening(durable) as listening:
            Keeper.objects.create(name="in progress")
            gates[0].wait()
            cut_stream(sql)
            stream.drop_slot()
            gates[0].open()
            error = listening.wait_for_end()
        assert isinstance(error, SlotMissing)
        assert error.hint.endswith(ACCEPT)
