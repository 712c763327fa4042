"""Logical messages come as they were written, those of other streams do not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.listening import Connect
from walex_django import Event
from walex_django.pgoutput.messages import LogicalMessage
from walex_django.signals import post_db_change, post_db_message

from .atlas import Atlas

EMIT = "SELECT pg_logical_emit_message(%s::boolean, %s, %s::bytea)"
CONTENTS = [
    b"",
    b"text",
    "größe 🦉".encode(),
    b"\x00",
    b"\xff\xfe\x80 not UTF-8",
    b"w\x00\x00",
    json.dumps({"a": None}).encode(),
    bytes(range(256)) * 4096,  # 1 MB
]
PREFIXES = [
    "",
    " ",
    "*",
    "app.*",
    "größe 🦉",
    "with \"quotes\" and 'quotes'",
    "new\nline",
    "%s {} \\",
    "p" * 5000,
]


@pytest.fixture
def heard(connect: Connect) -> list[LogicalMessage]:
    """Messages that a receiver got."""
    heard: list[LogicalMessage] = []

    def receiver(sender: Any, message: LogicalMessage, stream: str, **_: Any) -> None:
        assert (sender, stream) == (None, "default")
        heard.append(message)

    connect(post_db_message, receiver)
    return heard


def subscribe(atlas: Atlas, *prefixes: str) -> None:
    atlas.config = replace(atlas.config, messages=prefixes)
    atlas.execute("CREATE TABLE atlas.place (id int PRIMARY KEY, name text, size int)")
    atlas.watch()


def told_of(heard: list[LogicalMessage]) -> list[tuple[str, bytes, bool]]:
    return [(m.prefix, bytes(m.content), m.transactional) for m in heard]


@pytest.mark.parametrize("transactional", [True, False])
def test_contents_of_all_kinds(
    told: Atlas, heard: list[LogicalMessage], transactional: bool
) -> None:
    subscribe(told, "*")
    for content in CONTENTS:
        told.execute(EMIT, [transactional, "app", content])

    assert told.events() == []
    assert told_of(heard) == [("app", each, transactional) for each in CONTENTS]
    lsns = [message.lsn for message in heard]
    assert lsns == sorted(set(lsns))


@pytest.mark.parametrize("transactional", [True, False])
def test_prefixes_of_all_kinds(
    atlas: Atlas, heard: list[LogicalMessage], transactional: bool
) -> None:
    subscribe(atlas, *PREFIXES[:2], *PREFIXES[3:])
    for prefix in [*PREFIXES[:2], *PREFIXES[3:]]:
        atlas.execute(EMIT, [transactional, prefix, b"-"])
    # Others, though they look alike.
    for prefix in ["  ", "app.x", "app", "p" * 4999, "P" * 5000, "grösse", "%s {} "]:
        atlas.execute(EMIT, [transactional, prefix, b"x"])

    atlas.events()
    assert told_of(heard) == [
        (prefix, b"-", transactional) for prefix in [*PREFIXES[:2], *PREFIXES[3:]]
    ]


def test_no_message_comes_unasked(atlas: Atlas, heard: list[LogicalMessage]) -> None:
    subscribe(atlas)
    for transactional in (True, False):
        atlas.execute(EMIT, [transactional, "app", b"x"])
    atlas.execute("INSERT INTO atlas.place VALUES (1)")

    assert len(atlas.events()) == 1
    assert heard == []


def test_only_what_is_transactional_is_rolled_back(
    told: Atlas, heard: list[LogicalMessage]
) -> None:
    subscribe(told, "app")
    for statement in (
        *("BEGIN", "true", "false", "ROLLBACK"),
        *("BEGIN", "SAVEPOINT one", "true", "false", "ROLLBACK TO one"),
        *("true", "false", "COMMIT"),
    ):
        if statement in ("true", "false"):
            told.execute(EMIT, [statement, "app", statement.encode()])
        else:
            told.execute(statement)

    assert told.events() == []
    contents = [bytes(message.content) for message in heard]
    assert contents == [b"false", b"false", b"false", b"true"]


def test_a_message_comes_in_its_place_among_rows(
    told: Atlas, heard: list[LogicalMessage], connect: Connect
) -> None:
    order: list[str] = []

    def receiver(event: Any = None, message: Any = None, **kwargs: Any) -> None:
        if event is None or event.name == "place":
            order.append(
                message.content.decode() if message else event.new_record["name"]
            )

    subscribe(told, "app")
    connect(post_db_message, receiver)
    connect(post_db_change, receiver)
    told.execute("BEGIN")
    for n in range(6):
        if n % 2:
            told.execute(EMIT, [True, "app", str(n).encode()])
        else:
            told.execute("INSERT INTO atlas.place VALUES (%s, %s)", [n, str(n)])
    told.execute("COMMIT")

    rows = told.events()
    assert order == ["0", "1", "2", "3", "4", "5"]
    # Messages take no place among the changes.
    assert [event.ordinal for event in rows] == [1, 2, 3]
    assert len(heard) == 3


def test_a_message_without_a_transaction_is_ahead_of_the_rows_before_it(
    told: Atlas, heard: list[LogicalMessage], connect: Connect
) -> None:
    """It is in the log where it was written, and they at their COMMIT."""
    before: list[list[LogicalMessage]] = []

    def receiver(event: Event, **kwargs: Any) -> None:
        if event.name == "place":
            before.append([*heard])

    subscribe(told, "app")
    connect(post_db_change, receiver)
    told.execute("BEGIN")
    told.execute("INSERT INTO atlas.place VALUES (1, 'a')")
    told.execute(EMIT, [False, "app", b"now"])
    told.execute("COMMIT")

    (event,) = told.events()
    assert before == [heard]
    (message,) = heard
    # Its LSN is its end, where the COMMIT may begin.
    assert message.lsn <= event.lsn


def test_messages_of_many_streams_and_sizes_in_one_transaction(
    atlas: Atlas, heard: list[LogicalMessage]
) -> None:
    subscribe(atlas, "app", "")
    atlas.execute("""
        SELECT pg_logical_emit_message(
            true, CASE n % 3 WHEN 0 THEN 'app' WHEN 1 THEN '' ELSE 'no' END,
            repeat('x', n))
        FROM generate_series(0, 299) n
    """)

    atlas.events()
    assert [len(message.content) for message in heard] == [
        n for n in range(300) if n % 3 != 2
    ]
