"""A stream whose receivers fail: how status, probes, metrics and the admin show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.test import Client
from django.urls import include, path
from django.utils import timezone

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django import Event
from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerReport, ParkedEvent
from walex_django.monitoring.status import StreamState
from walex_django.signals import post_db_insert

from .mascots import name_of
from .test_reports import quick, reported, status_of, wait_for_state
from .test_stream_admin import _shown as streams_page

__all__ = ["quick"]

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "second"]),
    pytest.mark.usefixtures("quick"),
    pytest.mark.urls(__name__),
]

urlpatterns = [
    path("admin/", admin.site.urls),
    path("walex/", include("walex_django.urls")),
]

NAME = "tests.integration.test_failing_receivers.Receiver"


class Receiver:
    """A receiver that raises for keepers named "bad"."""

    def __call__(self, event: Event, **kwargs: Any) -> None:
        if name_of(event) == "bad":
            raise ValueError("s3cret")


def check(*options: str) -> tuple[int, str]:
    """Return the exit status of ``walex_status --check``, and what it prints."""
    output = StringIO()
    status: Any = 0
    try:
        call_command(
            "walex_status", "--check", "--stream=default", *options, stdout=output
        )
    except SystemExit as end:
        status = end.code
    return status, output.getvalue()


def status_text() -> str:
    output = StringIO()
    call_command("walex_status", "--stream=default", stdout=output, no_color=True)
    return output.getvalue()


def health(client: Client, query: str = "") -> tuple[int, list[str]]:
    response = client.get(f"/walex/health/?stream=default{query}")
    assert NAME not in response.text
    return response.status_code, response.json()["streams"]["default"]


def metric(client: Client, name: str) -> float:
    lines = client.get("/walex/metrics/").text.splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return float(line.rpartition(" ")[2])


def test_a_stream_whose_receiver_is_retried(
    durable: StreamConfig, connect: Connect, admin_client: Client
) -> None:
    connect(post_db_insert, Receiver())
    with reported(replace(durable, retry_backoff=3600)) as listening:
        Keeper.objects.create(name="good")
        (good,) = listening.wait_for(1)
        eventually(lambda: listening.report.counts.transactions == 1)
        began = timezone.now()
        Keeper.objects.create(name="bad")
        stream = wait_for_state(durable, StreamState.FAILING)

        (failing,) = stream.failing
        assert (failing.receiver, failing.signal) == (NAME, "post_db_insert")
        assert (failing.attempts, failing.breaker_open) == (1, False)
        assert began <= failing.since <= timezone.now()
        assert stream.since == failing.since
        assert stream.report is not None
        assert stream.report.last_event_id == good.id != failing.event_id

        shown = f"{NAME} (post_db_insert): retrying at {failing.event_id} after 1"
        text = status_text()
        assert "  state        receivers failing since " in text
        assert f"  failing      {shown} attempt, since " in text
        assert f"  last event   {good.id}, committed" in text
        output = StringIO()
        call_command("walex_status", "--stream=default", "--json", stdout=output)
        (data,) = json.loads(output.getvalue())["streams"]
        assert data["state"] == "failing"
        assert data["failing"][0]["event_id"] == failing.event_id
        assert data["last_event"] == good.id
        assert check() == (
            1,
            f"default: failing: state is failing ({shown} attempt)\n",
        )
        assert health(admin_client) == (503, ["state is failing"])
        assert metric(admin_client, 'walex_failing_receivers{stream="default"}') == 1
        page = streams_page(admin_client)
        assert "default receivers failing" in page
        assert f"{shown} attempt" in page
        assert f"Last delivered event {good.id}" in page
    # The listener is gone, and nothing is retried.
    assert status_of(durable).failing == []


def test_a_stream_with_an_open_breaker(
    durable: StreamConfig, connect: Connect, admin_client: Client
) -> None:
    connect(post_db_insert, Receiver())
    with reported(replace(durable, max_retries=0)) as listening:
        Keeper.objects.bulk_create([Keeper(name="bad") for _ in range(7)])
        events = list(listening.wait_for(7))
        stream = wait_for_state(durable, StreamState.FAILING)
        eventually(lambda: status_of(durable).failing[0].failed_calls == 7)
        (failing,) = status_of(durable).failing
        assert failing.breaker_open
        assert failing.event_id == events[-1].id
        assert stream.server_version
        shown = f"7 calls failed in a row, the last one at {failing.event_id}"
        assert shown in status_text()
        assert check()[0] == 1
        assert health(admin_client) == (503, ["state is failing"])
        assert shown in streams_page(admin_client)

        Keeper.objects.create(name="good")
        wait_for_state(durable, StreamState.RUNNING)
        assert check() == (0, "default: OK\n")
        assert "  failing" not in status_text()
        assert health(admin_client) == (200, [])
        assert metric(admin_client, 'walex_failing_receivers{stream="default"}') == 0


def test_a_paused_stream_whose_receiver_fails_is_not_healthy(
    durable: StreamConfig, connect: Connect, client: Client
) -> None:
    connect(post_db_insert, Receiver())
    with reported(replace(durable, max_retries=0)) as listening:
        Keeper.objects.bulk_create([Keeper(name="bad") for _ in range(5)])
        listening.wait_for(5)
        wait_for_state(durable, StreamState.FAILING)
        stored.change(durable, "replace", "PAUSED", True)
        try:
            wait_for_state(durable, StreamState.PAUSED)
            assert check()[1].startswith("default: failing: 1 receiver is failing (")
            assert health(client) == (503, ["1 receiver is failing"])
        finally:
            stored.forget(durable, "PAUSED")


def test_a_call_that_was_parked_does_not_fail_the_stream_without_a_limit(
    durable: StreamConfig, connect: Connect, client: Client
) -> None:
    connect(post_db_insert, Receiver())
    with reported(replace(durable, max_retries=0)) as listening:
        Keeper.objects.bulk_create([Keeper(name="bad"), Keeper(name="good")])
        listening.wait_for(2)
        eventually(ListenerReport.objects.exists)
        assert ParkedEvent.objects.count() == 1
        for limit, reasons in (
            ("0", ["parked calls: 1, more than 0"]),
            ("1", []),
        ):
            status, printed = check(f"--max-parked={limit}")
            assert (status == 0, "more than 0" in printed) == (
                not reasons,
                bool(reasons),
            )
            expected = 503 if reasons else 200
            assert health(client, f"&max_parked={limit}") == (expected, reasons)
        assert check() == (0, "default: OK\n")
    response = client.get("/walex/health/?max_parked=many")
    assert response.status_code == 503
    assert "'many' is not a valid number" in response.text


def test_a_listener_exposes_its_open_breakers(
    durable: StreamConfig, connect: Connect
) -> None:
    exposed = _exposed()
    connect(post_db_insert, Receiver())
    with Listening(replace(durable, max_retries=0)) as listening:
        Keeper.objects.create(name="good")
        listening.wait_for(1)
        assert "breaker_open{" not in exposed(listening)
        Keeper.objects.bulk_create([Keeper(name="bad") for _ in range(5)])
        listening.wait_for(6)
        eventually(lambda: listening.report.counts.transactions == 2)
        sample = (
            f'walex_receiver_breaker_open{{receiver="{NAME}",stream="default"}} 1.0'
        )
        assert sample in exposed(listening).replace(
            f'stream="default",receiver="{NAME}"', f'receiver="{NAME}",stream="default"'
        )


def _exposed() -> Callable[[Listening], str]:
    metrics = pytest.importorskip("walex_django.monitoring.metrics")

    def text(listening: Listening) -> str:
        collector = metrics.ListenerCollector([listening.report])
        body: bytes = metrics.exposition(collector, "")[0]
        return body.decode()

    return text
