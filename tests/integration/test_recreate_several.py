"""``walex_setup --recreate-slot`` with several streams requires ``--stream``."""

from __future__ import annotations

import pytest

from tests.process import Process

from .stream import Stream

pytestmark = pytest.mark.django_db(transaction=True)


def test_recreate_slot_requires_a_stream(stream: Stream) -> None:
    stream.deliver("before")
    stream.write("pending")
    look = "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots"
    before = stream.execute(look)

    with Process("walex_setup", "--recreate-slot", env=stream.env) as setup:
        assert setup.wait() == 1
    (line,) = setup.lines
    assert line.startswith("CommandError: --recreate-slot ")
    assert "--stream NAME" in line

    assert stream.execute(look) == before
    stream.deliver("after")
    assert stream.delivered() == ["before", "pending", "after"]
