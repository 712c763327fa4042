"""A second listener on a slot waits, and takes over when the first one ends."""

from __future__ import annotations

import signal

import pytest

from tests.process import Process, eventually

from .stream import Stream
from .test_mistakes import ONE

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = "Waiting to take over."


def standby(stream: Stream) -> Process:
    """Return a listener that waits to take over."""
    listener = Process("walex_listen", *ONE, env=stream.env)
    listener.wait_for(WAITING)
    return listener


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_standby_takes_over(stream: Stream, end: signal.Signals) -> None:
    with stream.listening() as first, standby(stream) as second:
        (warning,) = second.lines
        assert 'The slot "zoo_walex" is in use by the PostgreSQL process ' in warning
        assert warning.startswith("Stream default: ")

        stream.write("Ada")
        eventually(lambda: stream.delivered() == ["Ada"])
        first.signal(end)
        second.wait_for("Quit with")
        stream.write("Bob")
        eventually(lambda: stream.delivered()[-1:] == ["Bob"])
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
    assert [line for line in second.lines if WAITING in line] == [warning]
    assert second.lines[1].startswith("walex_django ")
    # After a kill it is unknown what was acknowledged.
    assert stream.delivered() == ["Ada", "Bob"] or end == signal.SIGKILL


def test_one_of_several_takes_over(stream: Stream) -> None:
    with (
        stream.listening() as first,
        standby(stream) as second,
        standby(stream) as third,
    ):
        first.signal(signal.SIGTERM)
        eventually(lambda: any("Quit with" in each.output for each in (second, third)))
        stream.write("Ada")
        eventually(lambda: stream.delivered() == ["Ada"])
        waiting, reading = sorted(
            (second, third), key=lambda each: "Quit with" in each.output
        )
        assert len(waiting.lines) == 1

        reading.signal(signal.SIGTERM)
        waiting.wait_for("Quit with")
        stream.write("Bob")
        eventually(lambda: stream.delivered() == ["Ada", "Bob"])


def test_waiting_standby_can_be_stopped(stream: Stream) -> None:
    with stream.listening(), standby(stream) as second:
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
        assert len(second.lines) == 1
