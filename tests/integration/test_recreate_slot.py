"""``walex_setup --recreate-slot`` recovers a stream whose slot cannot be resumed."""

from __future__ import annotations

import pytest

from tests.process import eventually

from .stream import Stream
from .test_mistakes import ONE, fails

pytestmark = pytest.mark.django_db(transaction=True)

DROP = "SELECT pg_catalog.pg_drop_replication_slot('zoo_walex');"
CREATE = (
    "SELECT pg_catalog.pg_create_logical_replication_slot("
    "'zoo_walex', 'pgoutput', false);"
)
RECREATE = ("walex_setup", *ONE, "--recreate-slot")

# Slots retain little WAL, and each checkpoint removes segments.
FORGETFUL = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"}


def start_of(stream: Stream) -> str:
    """Return the slot's confirmed position."""
    ((start,),) = stream.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
        " WHERE slot_name = 'zoo_walex'"
    )
    return str(start)


class TestHealthySlot:
    """The slot could be resumed."""

    def test_slot_is_recreated_at_the_end_of_the_wal(self, stream: Stream) -> None:
        stream.deliver("before")
        stream.write("pending")

        *steps, last = stream.run(*RECREATE)
        assert steps == [
            'default: drop the slot "zoo_walex"',
            'default: create the slot "zoo_walex"',
        ]
        assert last == f"default: delivers changes from LSN {start_of(stream)} on"
        stream.write("since")
        stream.deliver("after")
        assert stream.delivered() == ["before", "since", "after"]

    def test_slot_in_use_is_refused(self, stream: Stream) -> None:
        with stream.listening():
            line = fails("walex_setup", stream.env, "--recreate-slot")
            assert 'The slot "zoo_walex" is in use' in line
            assert line.endswith("Stop its listener first.")
            stream.write("undisturbed")
            eventually(lambda: stream.delivered() == ["undisturbed"])

    def test_dry_run_prints_the_sql(self, stream: Stream) -> None:
        stream.deliver("before")
        stream.write("pending")
        start = start_of(stream)

        assert stream.run(*RECREATE, "--dry-run") == [DROP, CREATE]
        assert start_of(stream) == start
        stream.deliver("after")
        assert stream.delivered() == ["before", "pending", "after"]

    def test_the_sql_may_be_run_by_another_role(self, stream: Stream) -> None:
        stream.deliver("before")
        for statement in stream.run(*RECREATE, "--dry-run"):
            stream.execute(statement)
        stream.write("since")

        # The slot that another role created is kept, but must be accepted.
        assert "was recreated" in fails("walex_listen", stream.env)
        assert stream.run(*RECREATE, "--dry-run") == ["-- the slot zoo_walex is kept"]
        (printed,) = stream.run(*RECREATE)
        assert printed == f"default: delivers changes from LSN {start_of(stream)} on"
        stream.deliver("after")
        assert stream.delivered() == ["before", "since", "after"]


@pytest.mark.parametrize("own_stream", [FORGETFUL], indirect=True)
class TestLostSlot:
    """The server has removed WAL that the slot still had to deliver."""

    def test_lost_slot_is_refused_until_it_is_recreated(
        self, own_stream: Stream
    ) -> None:
        own_stream.deliver("before")
        read = start_of(own_stream)
        own_stream.write("lost")
        self._lose_slot(own_stream)

        line = fails("walex_listen", own_stream.env)
        assert 'The slot "zoo_walex" is lost (' in line
        assert "max_slot_wal_keep_size" in line
        assert f"was read up to {read}." in line
        assert line.endswith("run: python manage.py walex_setup --recreate-slot")
        assert fails("walex_setup", own_stream.env) == line

        self._recreate(own_stream)
        assert own_stream.delivered() == ["before", "after"]

    def test_running_listener_ends_when_the_slot_is_lost(
        self, own_stream: Stream
    ) -> None:
        with own_stream.listening() as listener:
            with own_stream.blocked(1):
                own_stream.write("wait for 1", "lost")
                eventually(own_stream.is_blocked, "the receiver's work")
                self._lose_slot(own_stream)
            assert listener.wait() == 1
        assert 'The slot "zoo_walex" is lost (' in listener.lines[-1]
        assert listener.lines[-1].endswith("walex_setup --recreate-slot")
        assert "Traceback" not in listener.output

        self._recreate(own_stream)
        assert own_stream.delivered()[0] == "wait for 1"
        assert own_stream.delivered()[-1] == "after"

    def _lose_slot(self, stream: Stream) -> None:
        for _ in range(4):
            stream.execute("SELECT pg_switch_wal()")
            stream.write("burnt")
        stream.execute("CHECKPOINT")
        ((status,),) = stream.execute("SELECT wal_status FROM pg_replication_slots")
        assert status == "lost"

    def _recreate(self, stream: Stream) -> None:
        assert stream.run(*RECREATE)[:2] == [
            'default: drop the slot "zoo_walex"',
            'default: create the slot "zoo_walex"',
        ]
        stream.deliver("after")
