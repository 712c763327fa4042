"""A change that the server can never send, and the command that skips it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process import Process, eventually

from .listener import ONE, delivered, environment_on, listening, stop, with_stream
from .server import Server, lsn

SKIP = "python manage.py walex_skip --stream default"


@contextmanager
def undecodable(server: Server, error: str) -> Iterator[str]:
    """
    Make the server fail at changes of keepers named ``bad`` while the block lasts.

    Yields:
        A part of its error message.
    """
    if error == "division":
        # The application never evaluates the filter of a publication: the walsender
        # does.
        server.execute(
            "ALTER PUBLICATION zoo_events SET TABLE zoo_keeper"
            " WHERE (1 / CASE name WHEN 'bad' THEN 0 ELSE 1 END > 0)"
        )
        yield "division by zero"
        server.execute("ALTER PUBLICATION zoo_events SET TABLE zoo_keeper")
    elif error == "limit":
        # SQLSTATE 54000, as for a row of more than 1 GB.
        server.execute(
            "ALTER PUBLICATION zoo_events SET TABLE zoo_keeper WHERE (length(repeat("
            "name, CASE name WHEN 'bad' THEN 2000000000 ELSE 1 END)) > 0)"
        )
        yield "requested length too large"
        server.execute("ALTER PUBLICATION zoo_events SET TABLE zoo_keeper")
    elif error == "publication":
        server.execute("DROP PUBLICATION zoo_events")
        yield '"zoo_events"'
        server.execute("CREATE PUBLICATION zoo_events FOR TABLE zoo_keeper")
    else:
        server.execute("ALTER PUBLICATION zoo_more SET TABLE zoo_keeper (id)")
        yield "different column lists"
        server.execute("ALTER PUBLICATION zoo_more SET TABLE zoo_keeper")


ERRORS = pytest.mark.parametrize(
    "error", ["division", "limit", "publication", "columns"]
)


def fail(env: dict[str, str]) -> str:
    """Run a listener that ends by itself without success; return its last line."""
    with Process("walex_listen", *ONE, env=env) as listener:
        assert listener.wait() == 1, listener.output
        assert "Traceback" not in listener.output
        return listener.lines[-1]


def run(env: dict[str, str], *command: str) -> list[str]:
    """Run a command that succeeds; return its lines."""
    with Process(*command, env=env) as process:
        assert process.wait() == 0, process.output
        return process.lines


def refused(env: dict[str, str], *options: str) -> str:
    """Run `walex_skip` without success; return its last line."""
    with Process("walex_skip", *ONE, *options, env=env) as skip:
        assert skip.wait() == 1, skip.output
        assert "Traceback" not in skip.output
        return skip.lines[-1]


def status(env: dict[str, str]) -> dict[str, Any]:
    """Return the status of the stream."""
    (found,) = json.loads("\n".join(run(env, "walex_status", *ONE, "--json")))[
        "streams"
    ]
    return dict(found)


@ERRORS
@pytest.mark.parametrize("atomic", [False, True])
def test_exactly_the_transaction_that_fails_is_skipped(
    server: Server,
    environment: dict[str, str],
    journal: Path,
    error: str,
    atomic: bool,
) -> None:
    env = with_stream(environment, ATOMIC=atomic)
    if error == "columns":
        server.execute("CREATE PUBLICATION zoo_more")
        env = with_stream(env, PUBLICATION=["zoo_events", "zoo_more"])
        # The WAL since the slot was created has changes that are older than zoo_more.
        run(env, "walex_setup", *ONE, "--recreate-slot")
    with ExitStack() as stack:
        early, late = (stack.enter_context(server.connect()) for _ in range(2))
        early.autocommit = late.autocommit = False
        insert = b"INSERT INTO zoo_keeper (name) VALUES (%s)"
        server.write("before")
        # These transactions are open while the one that fails is written.
        early.execute(insert, ["early"])
        late.execute(insert, ["late"])
        early.commit()
        start = server.position()
        with undecodable(server, error) as message:
            server.write("bad")
        end = server.position()
        late.commit()
        server.write("after")

    line = fail(env)
    assert message in line
    assert SKIP in line
    first = re.search(r"\bat ([0-9A-F]+/[0-9A-F]+)\b", line)
    assert first, line
    assert start <= lsn(first[1]) <= end
    assert delivered(journal) == ["before", "early"]
    assert fail(env) == line
    (gap,) = status(env)["gaps"]
    assert gap["position"] == first[1]
    assert gap["skipped_at"] is None

    (done,) = run(env, *SKIP.split()[2:], "--noinput")
    assert done.startswith("default: skipped the transaction with its COMMIT at ")
    (gap,) = status(env)["gaps"]
    assert gap["skipped_at"]
    assert gap["skipped_by"]
    assert message in gap["error"]
    assert start <= lsn(gap["commit_lsn"]) <= end

    with listening(env) as listener:
        eventually(lambda: delivered(journal)[-1] == "after", "the rest")
        stop(listener)
    assert delivered(journal) == ["before", "early", "late", "after"]


def test_a_transaction_that_was_sent_in_part_is_named_and_skipped(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The BEGIN arrives here, and with it the transaction and its commit time."""
    with undecodable(server, "division"):
        server.write("good", "bad")
    server.write("after")

    line = fail(environment)
    (gap,) = status(environment)["gaps"]
    assert f"transaction {gap['xid']}, committed at " in line
    assert gap["commit_lsn"] in line
    text = "\n".join(run(environment, "walex_status", *ONE))
    assert f"gap          transaction {gap['xid']}, change at " in text
    assert f"To skip it, run: {SKIP}" in text

    run(environment, *SKIP.split()[2:], "--noinput")
    with listening(environment) as listener:
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the rest")
        stop(listener)
    assert delivered(journal) == ["after"]
    text = "\n".join(run(environment, "walex_status", *ONE))
    assert "skipped 20" in text
    assert "To skip it" not in text


def test_text_that_cannot_be_converted_is_skipped(
    server: Server, tmp_path: Path
) -> None:
    """WIN1252 has no character 0x81, and stores it nevertheless."""
    server.execute(
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'WIN1252'"
        " LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    journal = tmp_path / "journal"
    url = server.url("latin")
    env = {
        **environment_on(server),
        "ZOO_DATABASE_URL": url,
        "ZOO_SECOND_URL": url,
        "ZOO_JOURNAL": str(journal),
    }
    server.execute("SELECT pg_drop_replication_slot('zoo_walex')")
    run(env, "migrate", "--verbosity=0")
    run(env, "walex_setup", *ONE)
    with server.connect("latin") as latin:
        for name in (b"'good'", b"convert_from('\\x81', 'WIN1252')", b"'after'"):
            latin.execute(b"INSERT INTO zoo_keeper (name) VALUES (" + name + b")")

    line = fail(env)
    assert 'has no equivalent in encoding "UTF8"' in line
    assert "(transaction " in line
    assert SKIP in line
    run(env, *SKIP.split()[2:], "--noinput")
    with listening(env) as listener:
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the rest")
        stop(listener)
    assert delivered(journal) == ["good", "after"]


@pytest.mark.heavy
@pytest.mark.parametrize("server", [{"wal_sender_timeout": "60s"}], indirect=True)
def test_an_old_row_of_more_than_1_gb_is_skipped(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """It is small in the WAL, where it is compressed, and large on the way out."""
    columns = "abcd"
    for column in columns:
        server.execute(f"ALTER TABLE zoo_keeper ADD COLUMN {column} text")
    server.execute("ALTER TABLE zoo_keeper REPLICA IDENTITY FULL")
    server.write("large")
    for column in columns:
        server.execute(f"UPDATE zoo_keeper SET {column} = repeat('x', 270000000)")
    # Up to here the old rows are smaller, and nobody has to receive them.
    run(environment, "walex_setup", *ONE, "--recreate-slot")
    server.execute("UPDATE zoo_keeper SET name = 'larger'")
    server.write("after")

    line = fail(environment)
    assert SKIP in line
    assert "(transaction " in line
    (gap,) = status(environment)["gaps"]
    assert gap["error"]
    run(environment, *SKIP.split()[2:], "--noinput")
    with listening(environment) as listener:
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the rest")
        stop(listener)
    assert delivered(journal) == ["after"]


def test_each_of_several_transactions_is_skipped_by_a_command_of_its_own(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with undecodable(server, "division"):
        server.write("bad")
        server.write("between")
        server.write("bad")
    server.write("after")
    for _ in range(2):
        fail(environment)
        run(environment, *SKIP.split()[2:], "--noinput")
    with listening(environment) as listener:
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the rest")
        stop(listener)
    assert delivered(journal) == ["between", "after"]
    assert len(status(environment)["gaps"]) == 2


def test_a_running_listener_ends_at_the_change(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with listening(environment) as listener:
        server.write("before")
        eventually(lambda: delivered(journal) == ["before"])
        with undecodable(server, "division"):
            server.write("bad")
        assert listener.wait() == 1, listener.output
    assert SKIP in listener.lines[-1]
    found = status(environment)
    assert found["state"] == "failed"
    assert SKIP in found["reason"]


def test_what_was_delivered_since_an_orderly_end_does_not_forbid_the_skip(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    """The slot moves further than the checkpoint says, by our own hand."""
    with listening(environment) as listener:
        server.write("before")
        eventually(lambda: delivered(journal) == ["before"])
        stop(listener)
    with undecodable(server, "division"):
        server.write("bad")
    fail(environment)
    run(environment, *SKIP.split()[2:], "--noinput")
    server.write("after")
    with listening(environment) as listener:
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the rest")
        stop(listener)
    assert delivered(journal) == ["before", "after"]


def test_skip_refuses_without_a_recorded_failure(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    server.write("good")
    before = server.confirmed()
    assert "default: nothing to skip" in refused(environment, "--noinput")
    assert server.confirmed() == before


def test_skip_refuses_without_confirmation(
    server: Server, environment: dict[str, str]
) -> None:
    with undecodable(server, "division"):
        server.write("bad")
    fail(environment)
    before = server.confirmed()
    with Process("walex_skip", *ONE, env=environment) as skip:
        assert skip.wait() == 1
    assert "Nothing was skipped" in skip.lines[-1]
    assert any("division by zero" in line for line in skip.lines)
    assert server.confirmed() == before
    (gap,) = status(environment)["gaps"]
    assert gap["skipped_at"] is None


def test_skip_refuses_while_the_slot_is_read(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    server.execute(
        'INSERT INTO walex_django_gap (stream, slot_name, system_identifier, "table",'
        " error, found_at, skipped_by)"
        " SELECT 'default', 'zoo_walex', system_identifier, '', 'division by zero',"
        " now(), '' FROM pg_control_system()"
    )
    with listening(environment) as listener:
        assert 'The slot "zoo_walex" is in use' in refused(environment, "--noinput")
        server.write("undisturbed")
        eventually(lambda: delivered(journal) == ["undisturbed"])
        stop(listener)


def test_a_failure_that_has_passed_is_not_skipped(
    server: Server, environment: dict[str, str], journal: Path
) -> None:
    with undecodable(server, "division"):
        server.write("bad")
    fail(environment)
    # Another client has moved the slot past it; the next transaction is a good one.
    server.execute(
        "SELECT pg_replication_slot_advance('zoo_walex', pg_current_wal_lsn())"
    )
    server.write("good")
    before = server.confirmed()
    assert "Run: python manage.py walex_listen" in refused(environment, "--noinput")
    assert server.confirmed() == before


def test_a_new_slot_settles_the_gap(
    server: Server, environment: dict[str, str]
) -> None:
    with undecodable(server, "division"):
        server.write("bad")
    fail(environment)
    assert status(environment)["gaps"]
    run(environment, "walex_setup", *ONE, "--recreate-slot")
    assert status(environment)["gaps"] == []
    assert "nothing to skip" in refused(environment, "--noinput")
