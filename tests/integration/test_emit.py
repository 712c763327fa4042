"""Messages that an application writes to the WAL with `emit`, and their delivery."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import NotSupportedError, connection, transaction
from django.db.utils import ConnectionHandler

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django import Lsn, messages
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.messages import emit
from walex_django.pgoutput.messages import LogicalMessage
from walex_django.replication import connection as replication
from walex_django.signals import post_db_insert, post_db_message

from .wal import WalReader

pytestmark = pytest.mark.django_db(transaction=True)


class Received:
    """Receivers that record messages and the names of keepers, in order."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def message(self, message: LogicalMessage, **kwargs: Any) -> None:
        self.all.append(message)

    def keeper(self, event: Any, **kwargs: Any) -> None:
        self.all.append(event.instance.name)

    def wait_for(self, count: int) -> list[Any]:
        eventually(lambda: len(self.all) >= count, f"{count} of {self.all}")
        assert len(self.all) == count, self.all
        return self.all


@pytest.fixture
def received(config: StreamConfig, connect: Connect) -> Any:
    received = Received()
    connect(post_db_message, received.message)
    connect(post_db_insert, received.keeper, Keeper)
    with Listening(replace(config, messages=("*",))):
        yield received


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        ("héllo \x00 wörld", "héllo \x00 wörld".encode()),
        ("", b""),
        (bytes(range(256)), bytes(range(256))),
        (bytearray(b"%s \xff"), b"%s \xff"),
        (memoryview(b"view"), b"view"),
    ],
)
def test_text_and_bytes_arrive_unchanged(
    received: Received, payload: Any, content: bytes
) -> None:
    emit("zoo", payload)

    (message,) = received.wait_for(1)
    assert (message.prefix, message.content) == ("zoo", content)
    assert message.transactional


def test_other_payloads_arrive_as_json(received: Received) -> None:
    emit("zoo.fed", {"at": datetime(2026, 1, 2, tzinfo=UTC), "who": [UUID(int=1)]})
    emit("zoo.fed", [Decimal("1.10"), None, True, "ü"])
    emit("zoo.fed", None)

    contents = [json.loads(message.content) for message in received.wait_for(3)]
    assert contents == [
        {"at": "2026-01-02T00:00:00Z", "who": [str(UUID(int=1))]},
        ["1.10", None, True, "ü"],
        None,
    ]


def test_message_keeps_its_place_in_transaction(received: Received) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="Ada")
        lsn = emit("zoo", "between")
        Keeper.objects.create(name="Bob")

    ada, message, bob = received.wait_for(3)
    assert (ada, message.content, bob) == ("Ada", b"between", "Bob")
    assert isinstance(lsn, Lsn)
    assert message.lsn == lsn


def test_message_is_rolled_back_with_its_transaction(received: Received) -> None:
    with transaction.atomic():
        with transaction.atomic():
            emit("zoo", "gone")
            transaction.set_rollback(True)
        emit("zoo", "kept")

    (message,) = received.wait_for(1)
    assert message.content == b"kept"


def test_non_transactional_message_survives_rollback(received: Received) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="nobody")
        lsn = emit("zoo", "whatever comes", transactional=False)
        transaction.set_rollback(True)
    emit("zoo", "the end")

    message, end = received.wait_for(2)
    assert message.content == b"whatever comes"
    assert not message.transactional
    assert message.lsn == lsn
    assert end.content == b"the end"


def test_non_transactional_message_arrives_before_commit(
    received: Received, sql: psycopg.Connection[Any]
) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="Ada")
        emit("zoo", "at once", transactional=False)
        if sql.info.server_version < 170000:
            sql.execute("CREATE TABLE flushes (); DROP TABLE flushes")
        (message,) = received.wait_for(1)
        assert message.content == b"at once"

    assert received.wait_for(2)[1] == "Ada"


@pytest.mark.django_db(transaction=True, databases=["default", "second"])
def test_message_can_be_emitted_to_another_database(received: Received) -> None:
    second = get_config("second").connection_parameters()
    with replication.connect(second) as elsewhere:
        log = WalReader(elsewhere)
        emit("zoo", "elsewhere", using="second")
        emit("zoo", "here")

        (there,) = [m for m in log.messages() if isinstance(m, LogicalMessage)]
    assert there.content == b"elsewhere"
    (here,) = received.wait_for(1)
    assert here.content == b"here"


def test_role_without_privileges_can_emit(
    received: Received, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("CREATE ROLE zoo_visitor")
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL ROLE zoo_visitor")
            emit("zoo", "from a visitor")
    finally:
        sql.execute("DROP ROLE zoo_visitor")

    (message,) = received.wait_for(1)
    assert message.content == b"from a visitor"


def test_reserved_prefix_is_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"'walex_django\.context' is reserved for walex_django"
    ):
        emit("walex_django.context", {})


@pytest.mark.parametrize(
    ("payload", "error"),
    [(object(), TypeError), ({1, 2}, TypeError), (float("nan"), ValueError)],
)
def test_payload_not_serializable_to_json_is_rejected(
    payload: object, error: type[Exception], received: Received
) -> None:
    with pytest.raises(error):
        emit("zoo", payload)


def test_emit_requires_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = ConnectionHandler(
        {
            "default": {},
            "file": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        }
    )
    monkeypatch.setattr(messages, "connections", handler)
    with pytest.raises(
        NotSupportedError, match="'file' is SQLite, but only PostgreSQL"
    ):
        emit("zoo", "x", using="file")
