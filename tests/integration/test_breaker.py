"""Receivers that always raise: their circuit breaker."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper
from walex_django import Event, on_insert
from walex_django.conf.configs import replace_config
from walex_django.conf.stream import StreamConfig
from walex_django.models import ParkedEvent
from walex_django.signals import (
    post_db_insert,
    post_db_message,
    post_db_transaction,
)

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "tests.integration.test_breaker.Deploy"


class Deploy:
    """A receiver that raises until it is fixed."""

    def __init__(self) -> None:
        self.broken = True
        self.calls: list[str] = []

    def __call__(self, **arguments: Any) -> None:
        subject = arguments.get("event") or arguments.get("message")
        self.calls.append(getattr(subject, "id", ""))
        if self.broken:
            raise ValueError("broken deploy")


@pytest.fixture
def hasty(config: StreamConfig) -> StreamConfig:
    """One retry, at once."""
    return replace(config, max_retries=1, retry_backoff=0.001)


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture,
) -> Iterator[pytest.LogCaptureFixture]:
    """What the listener logs."""
    with caplog.at_level(logging.INFO, "walex_django"):
        yield caplog


def write(count: int) -> None:
    Keeper.objects.bulk_create([Keeper(name="Ada") for _ in range(count)])


def about_breaker(logged: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage())
        for record in logged.records
        if record.name == "walex_django.delivery.breakers"
    ]


OPENED = (
    logging.ERROR,
    (
        f"{NAME} failed for 5 calls in a row. Until a call succeeds, its calls are"
        " parked after one attempt. See: python manage.py walex_status"
    ),
)


@pytest.mark.parametrize("rows_each", [1, 300], ids=["transactions", "transaction"])
def test_a_receiver_that_always_raises_is_tried_once_for_each_event(
    hasty: StreamConfig,
    connect: Connect,
    logged: pytest.LogCaptureFixture,
    rows_each: int,
) -> None:
    deploy = Deploy()
    connect(post_db_insert, deploy)
    with Listening(hasty) as listening:
        for _ in range(300 // rows_each):
            write(rows_each)
        listening.wait_for(300)

    assert len(deploy.calls) == 5 * 2 + 295
    assert ParkedEvent.objects.count() == 300
    attempts = ParkedEvent.objects.values_list("attempts", flat=True)
    assert list(attempts) == [2] * 5 + [1] * 295
    assert about_breaker(logged) == [OPENED]
    tracebacks = [record for record in logged.records if record.exc_info]
    assert len(tracebacks) == 5
    assert (
        len([record for record in logged.records if NAME in record.getMessage()]) == 11
    )


@pytest.mark.parametrize("is_atomic", [False, True], ids=["", "atomic"])
def test_the_breaker_closes_when_a_call_succeeds(
    durable: StreamConfig,
    connect: Connect,
    logged: pytest.LogCaptureFixture,
    is_atomic: bool,
) -> None:
    deploy = Deploy()
    connect(post_db_insert, deploy)
    config = replace(
        durable,
        atomic=is_atomic,
        max_retries=1,
        retry_backoff=0.001,
        subscriptions=("zoo.Keeper",),
    )
    with Listening(config) as listening:
        write(6)
        listening.wait_for(6)
        counts = listening.report.counts
        eventually(lambda: counts.transactions == 1)
        (failing,) = counts.failing_now()
        assert (failing.receiver, failing.signal) == (NAME, "post_db_insert")
        assert (failing.is_open, failing.is_retried) == (True, False)
        assert failing.failed_calls == 6
        assert failing.event_id == listening.events[-1].id

        deploy.broken = False
        write(1)
        listening.wait_for(7)
        eventually(lambda: counts.transactions == 2)
        assert counts.failing_now() == []

        deploy.broken = True
        deploy.calls.clear()
        write(1)
        listening.wait_for(8)

    assert len(deploy.calls) == 2, "not retried again"
    assert about_breaker(logged) == [
        OPENED,
        (
            logging.INFO,
            (
                f"{NAME} succeeded after 6 failed calls in a row. Its calls are"
                " retried again."
            ),
        ),
    ]


def test_a_success_within_a_transaction_closes_the_breaker(
    hasty: StreamConfig, connect: Connect, logged: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def receiver(event: Event, **kwargs: Any) -> None:
        calls.append((event.new_record or {})["name"])
        if calls[-1] == "bad":
            raise ValueError

    connect(post_db_insert, receiver)
    names = ["bad"] * 4 + ["good"] + ["bad"] * 4 + ["good"]
    with Listening(hasty) as listening:
        Keeper.objects.bulk_create([Keeper(name=name) for name in names])
        listening.wait_for(len(names))

    assert len(calls) == 8 * 2 + 2
    assert about_breaker(logged) == []


def test_other_receivers_are_retried_as_before(
    hasty: StreamConfig, connect: Connect
) -> None:
    deploy, other = Deploy(), Deploy()
    connect(post_db_insert, deploy, Keeper)
    connect(post_db_insert, other, Animal)
    with Listening(hasty) as listening:
        write(10)
        Animal.objects.create(name="Leo")
        listening.wait_for(11)
    assert len(deploy.calls) == 5 * 2 + 5
    assert len(other.calls) == 2


@pytest.mark.usefixtures("own_handlers")
def test_handlers_functions_transactions_and_messages_have_breakers(
    hasty: StreamConfig,
    connect: Connect,
    logged: pytest.LogCaptureFixture,
    sql: psycopg.Connection[Any],
) -> None:
    calls: dict[str, int] = {"function": 0, "handler": 0, "signal": 0}

    def function(event: Event) -> None:
        calls["function"] += 1
        raise ValueError

    @on_insert(Keeper, functions=[function])
    def handle(events: list[Event]) -> None:
        calls["handler"] += 1
        raise ValueError

    def receiver(**kwargs: Any) -> None:
        calls["signal"] += 1
        raise ValueError

    connect(post_db_transaction, receiver)
    connect(post_db_message, receiver)
    with Listening(replace(hasty, messages=("*",))):
        for _ in range(7):
            write(1)
        for _ in range(7):
            sql.execute("SELECT pg_logical_emit_message(true, 'zoo', 'Ada')")
        messages = ParkedEvent.objects.filter(signal="post_db_message")
        eventually(lambda: messages.count() == 7)
    assert (calls["function"], calls["handler"]) == (12, 12)
    assert (
        calls["signal"]
        == ParkedEvent.objects.exclude(signal__in=["function", "on_insert"]).count()
        + 2 * 5
    )
    opened = [message for _, message in about_breaker(logged)]
    assert len(opened) == 4, opened


def test_skipped_calls_open_the_breaker(
    hasty: StreamConfig, connect: Connect, logged: pytest.LogCaptureFixture
) -> None:
    deploy = Deploy()
    connect(post_db_insert, deploy)
    with Listening(replace(hasty, on_error="skip")) as listening:
        write(10)
        listening.wait_for(10)
    assert len(deploy.calls) == 5 * 2 + 5
    ((_, message),) = about_breaker(logged)
    assert "its calls are skipped after one attempt" in message


def test_the_breaker_can_be_disabled_at_runtime(
    hasty: StreamConfig,
    connect: Connect,
    logged: pytest.LogCaptureFixture,
    settings: Any,
) -> None:
    settings.WALEX = {**settings.WALEX}  # and so again after the test
    deploy = Deploy()
    connect(post_db_insert, deploy)
    with Listening(hasty) as listening:
        write(6)
        listening.wait_for(6)
        replace_config("default", "BREAKER_THRESHOLD", 0)
        deploy.calls.clear()
        write(3)
        listening.wait_for(9)
        assert len(deploy.calls) == 6
    assert about_breaker(logged) == [OPENED]


@pytest.mark.heavy
def test_ten_thousand_waiting_events_are_parked_in_minutes(
    durable: StreamConfig, connect: Connect, logged: pytest.LogCaptureFixture
) -> None:
    """With the settings as they are by default."""
    deploy = Deploy()
    connect(post_db_insert, deploy)
    for _ in range(10_000):
        write(1)
    began = time.monotonic()
    with Listening(durable) as listening:
        while listening.report.counts.transactions < 10_000:
            assert time.monotonic() - began < 600
            time.sleep(0.5)
    print(f"parked in {time.monotonic() - began:.0f} s")
    assert ParkedEvent.objects.count() == 10_000
    assert len(deploy.calls) == 5 * 6 + 9_995
    assert about_breaker(logged) == [OPENED]
