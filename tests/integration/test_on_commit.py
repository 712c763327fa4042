"""Callbacks of ``transaction.on_commit()`` in receivers under ATOMIC."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import transaction

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.signals import post_db_insert

from .mascots import Moody, Sql, adopt, adopted, name_of, wait_until_adopted

pytestmark = pytest.mark.django_db(transaction=True)


def fail() -> None:
    """Raise an error: a callback of on_commit()."""
    raise ValueError("after the fact")


def test_callbacks_run_after_the_commit(
    atomic: StreamConfig, connect: Connect, sql: Sql
) -> None:
    seen: list[list[str]] = []
    moody = Moody(times=1)

    def announce(event: Event, **kwargs: Any) -> None:
        transaction.on_commit(lambda: seen.append(adopted(sql)))
        moody(event)

    connect(post_db_insert, announce)
    with Listening(atomic):
        Keeper.objects.create(name="Ada")
        eventually(lambda: len(seen) > 0, "the callback")
    # The callback of the failed call never runs.
    assert seen == [["moody Ada"]]


def test_callback_that_raises_is_logged(
    atomic: StreamConfig,
    connect: Connect,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def announce(**kwargs: Any) -> None:
        transaction.on_commit(fail)

    connect(post_db_insert, announce)
    connect(post_db_insert, adopt)
    with Listening(atomic) as listening:
        for name in ("Ada", "Bob"):
            Keeper.objects.create(name=name)
        wait_until_adopted(sql, "Ada", "Bob")
    assert len(listening.events) == 2
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.getMessage() for each in errors] == [
        f"An on_commit() callback failed at {event.lsn}" for event in listening.events
    ]
    assert all("after the fact" in str(each.exc_text) for each in errors)


def test_callback_that_raises_does_not_affect_others(
    atomic: StreamConfig, connect: Connect, sql: Sql
) -> None:
    announced: list[str] = []

    def announce_badly(**kwargs: Any) -> None:
        transaction.on_commit(fail)

    def announce(event: Event, **kwargs: Any) -> None:
        transaction.on_commit(lambda: announced.append(name_of(event)))

    connect(post_db_insert, announce_badly)
    connect(post_db_insert, announce)
    connect(post_db_insert, adopt)
    with Listening(atomic):
        for name in ("Ada", "Bob"):
            Keeper.objects.create(name=name)
        wait_until_adopted(sql, "Ada", "Bob")
    assert announced == ["Ada", "Bob"]
