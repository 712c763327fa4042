"""The slot: lost, idle, and without its publication."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.process import Process, eventually

from .listener import ONE, heard, listening, stop
from .server import Server, lsn

RECREATE = "python manage.py walex_setup --recreate-slot"
PUBLICATION = "CREATE PUBLICATION zoo_events FOR TABLE zoo_keeper"


@pytest.mark.parametrize("server", [{"max_slot_wal_keep_size": "1MB"}], indirect=True)
def test_a_lost_slot_ends_the_listener_with_the_remedy(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 8: the log is burnt while a receiver is at work."""
    with listening(environment) as listener:
        with server.held(1):
            server.write("wait for 1")
            eventually(server.waits_for_lock, "the receiver's work")
            server.write("burnt")
            position = server.position()
            eventually(lambda: server.sent() >= position, "the sending")
            eventually(lambda: _burn(server), "the loss")
            server.write("lost")
        assert listener.wait() == 1
    _assert_told(listener)
    # It does not start either, until somebody accepts the gap.
    with Process("walex_listen", *ONE, env=environment) as listener:
        assert listener.wait() == 1
    _assert_told(listener)

    with Process(*RECREATE.split()[2:], *ONE, env=environment) as setup:
        assert setup.wait() == 0, setup.output
    with listening(environment) as listener:
        server.write("anew")
        eventually(lambda: heard(journal)[-1] == "anew")
        stop(listener)
    # What was on its way already is heard of, and behind it there is the gap.
    assert set(heard(journal)) == {"wait for 1", "burnt", "anew"}


def test_an_idle_slot_keeps_up_without_writes(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 11: 200,000 rows each in another database and in an unpublished table."""
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
        assert _next_transaction(server) - before == 2, "somebody else has written"
        assert heard(journal) == []
        stop(listener)


def test_a_missing_publication_is_an_error_that_names_it(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """Case 9: dropped while streaming, and made again; a write before and after."""
    with listening(environment) as listener:
        server.write("before")
        eventually(lambda: heard(journal) == ["before"])
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
    # Nothing goes on behind the hole.
    assert heard(journal) == ["before"]
    assert server.confirmed() <= end


def _assert_told(listener: Process) -> None:
    line = listener.lines[-1]
    assert line.startswith('CommandError: default: The slot "zoo_walex" is lost'), line
    assert RECREATE in line
    assert "Traceback" not in listener.output


def _burn(server: Server) -> bool:
    """Use a segment of the log up; return whether the slot is lost by now."""
    server.write("burnt")
    server.execute("SELECT pg_switch_wal()")
    server.execute("CHECKPOINT")
    return server.execute("SELECT wal_status FROM pg_replication_slots") == [("lost",)]


def _next_transaction(server: Server) -> int:
    """Return the number of the next transaction of the server that writes."""
    ((number,),) = server.execute(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int"
    )
    assert isinstance(number, int)
    return number
