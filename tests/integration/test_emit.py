"""What an application writes to the log with `emit`, and what is heard of it."""

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

from .log import Log

pytestmark = pytest.mark.django_db(transaction=True)


class Heard:
    """Receivers that keep messages, and the names of keepers between them."""

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
def heard(config: StreamConfig, connect: Connect) -> Any:
    heard = Heard()
    connect(post_db_message, heard.message)
    connect(post_db_insert, heard.keeper, Keeper)
    with Listening(replace(config, messages=("*",))):
        yield heard


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
def test_texts_and_bytes_arrive_as_they_are(
    heard: Heard, payload: Any, content: bytes
) -> None:
    emit("zoo", payload)

    (message,) = heard.wait_for(1)
    assert (message.prefix, message.content) == ("zoo", content)
    assert message.transactional


def test_anything_else_arrives_as_json(heard: Heard) -> None:
    emit("zoo.fed", {"at": datetime(2026, 1, 2, tzinfo=UTC), "who": [UUID(int=1)]})
    emit("zoo.fed", [Decimal("1.10"), None, True, "ü"])
    emit("zoo.fed", None)

    contents = [json.loads(message.content) for message in heard.wait_for(3)]
    assert contents == [
        {"at": "2026-01-02T00:00:00Z", "who": [str(UUID(int=1))]},
        ["1.10", None, True, "ü"],
        None,
    ]


def test_a_message_comes_in_its_place_in_the_transaction(heard: Heard) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="Ada")
        lsn = emit("zoo", "between")
        Keeper.objects.create(name="Bob")

    ada, message, bob = heard.wait_for(3)
    assert (ada, message.content, bob) == ("Ada", b"between", "Bob")
    assert isinstance(lsn, Lsn)
    assert message.lsn == lsn


def test_a_message_is_rolled_back_with_its_transaction(heard: Heard) -> None:
    with transaction.atomic():
        with transaction.atomic():
            emit("zoo", "gone")
            transaction.set_rollback(True)
        emit("zoo", "kept")

    (message,) = heard.wait_for(1)
    assert message.content == b"kept"


def test_one_that_is_not_transactional_survives_the_rollback(heard: Heard) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="nobody")
        lsn = emit("zoo", "whatever comes", transactional=False)
        transaction.set_rollback(True)
    emit("zoo", "the end")

    message, end = heard.wait_for(2)
    assert message.content == b"whatever comes"
    assert not message.transactional
    assert message.lsn == lsn
    assert end.content == b"the end"


def test_one_that_is_not_transactional_comes_while_its_transaction_is_open(
    heard: Heard, sql: psycopg.Connection[Any]
) -> None:
    with transaction.atomic():
        Keeper.objects.create(name="Ada")
        emit("zoo", "at once", transactional=False)
        if sql.info.server_version < 170000:
            sql.execute("CREATE TABLE flushes (); DROP TABLE flushes")
        (message,) = heard.wait_for(1)
        assert message.content == b"at once"

    assert heard.wait_for(2)[1] == "Ada"


@pytest.mark.django_db(transaction=True, databases=["default", "second"])
def test_a_message_can_go_to_another_database(heard: Heard) -> None:
    second = get_config("second").connection_parameters()
    with replication.connect(second) as elsewhere:
        log = Log(elsewhere)
        emit("zoo", "elsewhere", using="second")
        emit("zoo", "here")

        (there,) = [m for m in log.messages() if isinstance(m, LogicalMessage)]
    assert there.content == b"elsewhere"
    (here,) = heard.wait_for(1)
    assert here.content == b"here"


def test_a_role_without_rights_may_emit(
    heard: Heard, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("CREATE ROLE zoo_visitor")
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL ROLE zoo_visitor")
            emit("zoo", "from a visitor")
    finally:
        sql.execute("DROP ROLE zoo_visitor")

    (message,) = heard.wait_for(1)
    assert message.content == b"from a visitor"


def test_prefixes_of_ours_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'walex_django\.context' is reserved for walex_django"
    ):
        emit("walex_django.context", {})


@pytest.mark.parametrize(
    ("payload", "error"),
    [(object(), TypeError), ({1, 2}, TypeError), (float("nan"), ValueError)],
)
def test_what_json_has_not_is_refused(
    payload: object, error: type[Exception], heard: Heard
) -> None:
    with pytest.raises(error):
        emit("zoo", payload)


def test_other_databases_have_no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
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
