"""Logical messages are delivered as written, if the stream subscribes to them."""

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
def messages(connect: Connect) -> list[LogicalMessage]:
    """The messages that a receiver got."""
    messages: list[LogicalMessage] = []

    def receiver(sender: Any, message: LogicalMessage, stream: str, **_: Any) -> None:
        assert (sender, stream) == (None, "default")
        messages.append(message)

    connect(post_db_message, receiver)
    return messages


def subscribe(atlas: Atlas, *prefixes: str) -> None:
    atlas.config = replace(atlas.config, messages=prefixes)
    atlas.execute("CREATE TABLE atlas.place (id int PRIMARY KEY, name text, size int)")
    atlas.watch()


def contents_of(messages: list[LogicalMessage]) -> list[tuple[str, bytes, bool]]:
    return [(m.prefix, bytes(m.content), m.transactional) for m in messages]


@pytest.mark.parametrize("transactional", [True, False])
def test_content_is_delivered_as_written(
    any_atlas: Atlas, messages: list[LogicalMessage], transactional: bool
) -> None:
    subscribe(any_atlas, "*")
    for content in CONTENTS:
        any_atlas.execute(EMIT, [transactional, "app", content])

    assert any_atlas.events() == []
    assert contents_of(messages) == [("app", each, transactional) for each in CONTENTS]
    lsns = [message.lsn for message in messages]
    assert lsns == sorted(set(lsns))


@pytest.mark.parametrize("transactional", [True, False])
def test_only_subscribed_prefixes_are_delivered(
    atlas: Atlas, messages: list[LogicalMessage], transactional: bool
) -> None:
    subscribe(atlas, *PREFIXES[:2], *PREFIXES[3:])
    for prefix in [*PREFIXES[:2], *PREFIXES[3:]]:
        atlas.execute(EMIT, [transactional, prefix, b"-"])
    # Similar prefixes that are not subscribed to.
    for prefix in ["  ", "app.x", "app", "p" * 4999, "P" * 5000, "grösse", "%s {} "]:
        atlas.execute(EMIT, [transactional, prefix, b"x"])

    atlas.events()
    assert contents_of(messages) == [
        (prefix, b"-", transactional) for prefix in [*PREFIXES[:2], *PREFIXES[3:]]
    ]


def test_no_message_is_delivered_without_a_subscription(
    atlas: Atlas, messages: list[LogicalMessage]
) -> None:
    subscribe(atlas)
    for transactional in (True, False):
        atlas.execute(EMIT, [transactional, "app", b"x"])
    atlas.execute("INSERT INTO atlas.place VALUES (1)")

    assert len(atlas.events()) == 1
    assert messages == []


def test_only_transactional_messages_are_rolled_back(
    any_atlas: Atlas, messages: list[LogicalMessage]
) -> None:
    subscribe(any_atlas, "app")
    for statement in (
        *("BEGIN", "true", "false", "ROLLBACK"),
        *("BEGIN", "SAVEPOINT one", "true", "false", "ROLLBACK TO one"),
        *("true", "false", "COMMIT"),
    ):
        if statement in ("true", "false"):
            any_atlas.execute(EMIT, [statement, "app", statement.encode()])
        else:
            any_atlas.execute(statement)

    assert any_atlas.events() == []
    contents = [bytes(message.content) for message in messages]
    assert contents == [b"false", b"false", b"false", b"true"]


def test_message_keeps_its_place_among_rows(
    any_atlas: Atlas, messages: list[LogicalMessage], connect: Connect
) -> None:
    order: list[str] = []

    def receiver(event: Any = None, message: Any = None, **kwargs: Any) -> None:
        if event is None or event.name == "place":
            order.append(
                message.content.decode() if message else event.new_record["name"]
            )

    subscribe(any_atlas, "app")
    connect(post_db_message, receiver)
    connect(post_db_change, receiver)
    any_atlas.execute("BEGIN")
    for n in range(6):
        if n % 2:
            any_atlas.execute(EMIT, [True, "app", str(n).encode()])
        else:
            any_atlas.execute("INSERT INTO atlas.place VALUES (%s, %s)", [n, str(n)])
    any_atlas.execute("COMMIT")

    rows = any_atlas.events()
    assert order == ["0", "1", "2", "3", "4", "5"]
    # Messages are not counted among the changes.
    assert [event.ordinal for event in rows] == [1, 2, 3]
    assert len(messages) == 3


def test_nontransactional_message_precedes_rows_of_its_transaction(
    any_atlas: Atlas, messages: list[LogicalMessage], connect: Connect
) -> None:
    """It is delivered where it is in the WAL; the rows, at their COMMIT."""
    before: list[list[LogicalMessage]] = []

    def receiver(event: Event, **kwargs: Any) -> None:
        if event.name == "place":
            before.append([*messages])

    subscribe(any_atlas, "app")
    connect(post_db_change, receiver)
    any_atlas.execute("BEGIN")
    any_atlas.execute("INSERT INTO atlas.place VALUES (1, 'a')")
    any_atlas.execute(EMIT, [False, "app", b"now"])
    any_atlas.execute("COMMIT")

    (event,) = any_atlas.events()
    assert before == [messages]
    (message,) = messages
    # Its LSN is that of its end, where the COMMIT may begin.
    assert message.lsn <= event.lsn


def test_messages_of_several_prefixes_and_sizes_in_one_transaction(
    atlas: Atlas, messages: list[LogicalMessage]
) -> None:
    subscribe(atlas, "app", "")
    atlas.execute("""
        SELECT pg_logical_emit_message(
            true, CASE n % 3 WHEN 0 THEN 'app' WHEN 1 THEN '' ELSE 'no' END,
            repeat('x', n))
        FROM generate_series(0, 299) n
    """)

    atlas.events()
    assert [len(message.content) for message in messages] == [
        n for n in range(300) if n % 3 != 2
    ]
