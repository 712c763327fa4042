"""Listeners resume from an intact slot, no matter how they or the server stopped."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from django.core.management import call_command

from tests.listening import Listening
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig

from .stream import OwnStream, Stream
from .test_mistakes import ONE

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = range(5)


@pytest.mark.parametrize("atomic", [False, True], ids=["", "atomic"])
def test_resume_after_clean_stops(durable: StreamConfig, atomic: bool) -> None:
    for _ in ROUNDS:
        Keeper.objects.create(name="meanwhile")
        with Listening(replace(durable, atomic=atomic)) as listening:
            Keeper.objects.create(name="heard")
            listening.wait_for(2)
    with Listening(durable) as listening:
        Keeper.objects.create(name="the last")
        listening.wait_for(1)


def test_resume_of_stream_that_delivers_nothing(durable: StreamConfig) -> None:
    for _ in ROUNDS:
        with Listening(durable):
            pass
        call_command("walex_listen", *ONE, "--drain", verbosity=0)
    with Listening(durable) as listening:
        Keeper.objects.create(name="the first")
        listening.wait_for(1)


def test_resume_after_drains(durable: StreamConfig, stream: Stream) -> None:
    for _ in ROUNDS:
        Keeper.objects.create(name="meanwhile")
        call_command("walex_listen", *ONE, "--drain", verbosity=0)
    stream.deliver("the last")
    assert stream.delivered() == ["the last"]


def test_resume_after_sigkill(stream: Stream) -> None:
    names = [str(number) for number in ROUNDS]
    for name in names:
        stream.deliver(name, end=signal.SIGKILL)
    stream.deliver(end=signal.SIGKILL)
    stream.deliver("the last")
    assert list(dict.fromkeys(stream.delivered())) == [*names, "the last"]


def test_resume_after_reset_of_statistics(
    stream: Stream, durable: StreamConfig
) -> None:
    for name, end in (("Ada", signal.SIGKILL), ("Bob", signal.SIGTERM)):
        stream.deliver(name, end=end)
        stream.execute("SELECT pg_stat_reset_replication_slot(NULL)")
        with Listening(durable):
            pass
    stream.execute("SELECT pg_stat_reset_shared('bgwriter')")
    stream.deliver("the last")


def test_resume_after_server_restarts(own_stream: OwnStream) -> None:
    names = []
    for mode in ("fast", "immediate"):
        for end in (signal.SIGTERM, signal.SIGKILL):
            names.append(f"{end.name} {mode}")
            own_stream.deliver(names[-1], end=end)
            own_stream.restart_server(mode)
            own_stream.deliver()
    own_stream.deliver("the last")
    # After a crash the server may resend acknowledged changes.
    assert list(dict.fromkeys(own_stream.delivered())) == [*names, "the last"]
