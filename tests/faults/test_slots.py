"""Slots that are lost, idle, or without their publication."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import ONE, delivered, listening, stop
from .server import Server, lsn

RECREATE = "python manage.py walex_setup --recreate-slot"
PUBLICATION = "CREATE PUBLICATION zoo_events FOR TABLE zoo_keeper"


@pytest.mark.parametrize("server", [{"max_slot_wal_keep_size": "1MB"}], indirect=True)
def test_lost_slot_stops_the_listener_and_names_the_remedy(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The server removes needed WAL while a receiver runs."""
    with listening(environment) as listener:
        with server.blocking_receivers(1):
            server.write("wait for 1")
            eventually(server.has_blocked_receiver, "the blocked receiver")
            server.write("burnt")
            position = server.position()
            eventually(lambda: server.sent() >= position, "the sending")
            eventually(lambda: _fill_wal_segment(server), "the loss")
            server.write("lost")
        assert listener.wait() == 1
    _assert_loss_reported(listener)
    # It refuses to start until the slot is recreated, which accepts the gap.
    with Process("walex_listen", *ONE, env=environment) as listener:
        assert listener.wait() == 1
    _assert_loss_reported(listener)

    with Process(*RECREATE.split()[2:], *ONE, env=environment) as setup:
        assert setup.wait() == 0, setup.output
    with listening(environment) as listener:
        server.write("anew")
        eventually(lambda: delivered(journal)[-1] == "anew")
        stop(listener)
    # Events already sent are delivered; the gap begins after them.
    assert set(delivered(journal)) == {"wait for 1", "burnt", "anew"}


def test_slot_of_an_idle_stream_advances_without_writes(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """200,000 rows each in another database and in an unpublished table."""
    server.execute("CREATE DATABASE elsewhere")
    rows = "SELECT n, repeat('x', 50) FROM generate_series(1, 200000) AS n"
    with listening(environment) as listener, server.connect("elsewhere") as elsewhere:
        elsewhere.execute("CREATE TABLE busy (id int, filler text)")
        server.execute("CREATE TABLE busy (id int, filler text)")
        before, start = _next_transaction(server), server.position()
        elsewhere.execute(f"INSERT INTO busy {rows}".encode())
        server.execute(f"INSERT INTO busy {rows}")
        position = server.position()
        assert position - start > 10_000_000
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        assert _next_transaction(server) - before == 2, "something else has written"
        assert delivered(journal) == []
        stop(listener)


def test_missing_publication_is_an_error_that_names_it(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """It is dropped while streaming and recreated, with writes before and after."""
    with listening(environment) as listener:
        server.write("before")
        eventually(lambda: delivered(journal) == ["before"])
        server.execute("DROP PUBLICATION zoo_events")
        start = server.position()
        server.write("unpublished")
        end = server.position()
        server.execute(PUBLICATION)
        server.write("after")
        assert listener.wait() == 1, listener.output

    line = listener.lines[-1]
    assert line.startswith("CommandError: default: ")
    assert '"zoo_events"' in line
    assert RECREATE in line
    named = map(lsn, re.findall(r"\b[0-9A-F]+/[0-9A-F]+\b", line))
    assert any(start <= position <= end for position in named), line
    # Nothing after the gap is delivered.
    assert delivered(journal) == ["before"]
    assert server.confirmed() <= end


def _assert_loss_reported(listener: Process) -> None:
    line = listener.lines[-1]
    assert line.startswith('CommandError: default: The slot "zoo_walex" is lost'), line
    assert RECREATE in line
    assert "Traceback" not in listener.output


def _fill_wal_segment(server: Server) -> bool:
    """Complete a segment of the WAL; return whether the slot is lost."""
    server.write("burnt")
    server.execute("SELECT pg_switch_wal()")
    server.execute("CHECKPOINT")
    return server.execute("SELECT wal_status FROM pg_replication_slots") == [("lost",)]


def _next_transaction(server: Server) -> int:
    """Return the id of the next transaction that writes."""
    ((number,),) = server.execute(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int"
    )
    assert isinstance(number, int)
    return number
