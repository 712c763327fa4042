"""The health view, as load balancers and anonymous clients see it."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import include, path
from pytest_django import Settings

from tests.listening import Connect
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.monitoring import inspection, reporter, timed_inspection
from walex_django.monitoring.views import health
from walex_django.replication import publications, slots
from walex_django.signals import post_db_insert

from .test_reports import known_to_run
from .test_status import silent_server

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "second"]),
    pytest.mark.urls(__name__),
]

urlpatterns = [
    path("walex/", include("walex_django.urls")),
    path("strict/", health, {"max_lag": "1kB", "max_age": "1h"}),
    path("generous/", health, {"max_lag": 2**40, "max_age": timedelta(hours=1)}),
    path("aged/", health, {"max_age": "1s"}),
    path("mistaken/", health, {"max_lag": "1XB"}),
]

ONE = "/walex/health/?stream=default"


def _set_url(settings: Settings, url: str) -> None:
    default = {**settings.WALEX["default"], "URL": url}
    settings.WALEX = {**settings.WALEX, "default": default}


def test_running_stream_is_healthy(durable: StreamConfig, client: Client) -> None:
    with known_to_run(durable):
        answer = client.get(ONE)
        head = client.head(ONE)

    assert answer.status_code == head.status_code == 200
    assert answer.json() == {"status": "ok", "streams": {"default": []}}
    assert answer["Cache-Control"] == "no-store"
    assert answer["Content-Type"] == "application/json"
    assert client.post(ONE).status_code == 405


@pytest.mark.usefixtures("durable")
def test_stream_without_listener_is_failing(client: Client) -> None:
    answer = client.get(ONE)

    assert answer.status_code == 503
    assert answer.json() == {
        "status": "failing",
        "streams": {"default": ["state is stopped"]},
    }


def test_probes_skip_expensive_queries(
    durable: StreamConfig,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def expensive(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(inspection, "find_problems", expensive)
    monkeypatch.setattr(publications, "published", expensive)
    monkeypatch.setattr(slots, "every", expensive)
    with known_to_run(durable):
        assert client.get(ONE).json() == {"status": "ok", "streams": {"default": []}}
        call_command("walex_status", "--check", "--stream=default")
        # The full status runs these queries.
        with pytest.raises(AssertionError):
            call_command("walex_status", "--stream=default")
    assert capsys.readouterr().out == "default: OK\n"


def test_all_streams_are_checked(durable: StreamConfig, client: Client) -> None:
    with known_to_run(durable):
        answer = client.get("/walex/health/")
        chosen = client.get(f"{ONE}&stream=second")

    assert answer.status_code == 503
    assert answer.json() == chosen.json()
    assert answer.json()["streams"] == {"default": [], "second": ["state is missing"]}


def test_unknown_stream_is_not_found(client: Client) -> None:
    answer = client.get("/walex/health/?stream=nobody")

    assert answer.status_code == 404
    assert answer.json()["reason"] == "Unknown stream: 'nobody'."


def test_limits_are_exceeded_while_receiver_does_not_return(
    durable: StreamConfig,
    client: Client,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(**kwargs: object) -> None:
        entered.set()
        assert leave.wait(20)

    connect(post_db_insert, wait)
    # By default, listeners report their current transaction every ten seconds.
    monkeypatch.setattr(reporter, "_TICK", 0.02)
    monkeypatch.setattr(reporter, "_SAMPLE_EVERY", 0.05)
    with known_to_run(durable):
        Keeper.objects.create(name="Ada")
        assert entered.wait(20)
        try:
            Keeper.objects.bulk_create([Keeper(name="x" * 100) for _ in range(20)])
            eventually(lambda: _reasons(client, "/aged/") != [], "its age")
            lagging, aged = _reasons(client, "/strict/"), _reasons(client, "/aged/")
            for url in ("/generous/", "/walex/health/"):
                assert client.get(f"{url}?stream=default").status_code == 200
        finally:
            leave.set()
        eventually(lambda: _reasons(client, "/aged/") == [], "the end")

    (reason,) = lagging
    assert reason.endswith(" bytes, more than 1024")
    assert int(reason.removeprefix("lag is ").split()[0]) > 1024
    (reason,) = aged
    assert reason.endswith(" s, more than 1")
    assert int(reason.removeprefix("age is ").split()[0]) >= 1


def _reasons(client: Client, url: str) -> list[str]:
    answer = client.get(f"{url}?stream=default")
    reasons = answer.json()["streams"]["default"]
    assert answer.status_code == (503 if reasons else 200)
    return list(reasons)


@pytest.mark.usefixtures("durable")
def test_probes_need_no_login(client: Client, settings: Settings) -> None:
    login = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, login]

    assert client.get("/walex/health/").status_code == 503
    assert client.get("/walex/metrics/").status_code == 200


def test_invalid_limit_is_reported(client: Client) -> None:
    answer = client.get("/mistaken/")

    assert answer.status_code == 503
    assert answer.json() == {
        "status": "failing",
        "streams": {},
        "reason": "Invalid limit: '1XB' is not a valid size: write a number and"
        " kB, MB, GB or TB, such as 500MB.",
    }


@pytest.mark.usefixtures("durable")
def test_response_reveals_nothing_about_the_server(
    client: Client, settings: Settings
) -> None:
    _set_url(settings, "postgres://zoo:s3cret@127.0.0.1:1/zoo")
    answer = client.get(ONE)

    assert answer.status_code == 503
    assert answer.json()["streams"] == {"default": ["state is unreachable"]}


def test_invalid_settings_are_reported(client: Client, settings: Settings) -> None:
    _set_url(settings, "s3cret")
    settings.WALEX["default"]["PUBLICATION"] = 5
    answer = client.get(ONE)

    assert answer.status_code == 503
    assert answer.json() == {
        "status": "failing",
        "streams": {},
        "reason": "The settings are invalid. Run: python manage.py check",
    }


@pytest.mark.usefixtures("durable")
def test_silent_server_does_not_block_probes(
    client: Client, settings: Settings
) -> None:
    with silent_server() as url:
        _set_url(settings, url)
        began = time.monotonic()
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(Client().get(ONE)))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: len(_inspections()) > 0, "the inspection")
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(_inspections()))
            threads[0].join(0.1)
        took = time.monotonic() - began

    assert took < timed_inspection.TIMEOUT + 2
    assert {answer.status_code for answer in answers} == {503}
    assert len(answers) == 5
    # All probes wait for the same inspection.
    assert most == 1
    eventually(lambda: not _inspections(), "the end of the inspection")


def _inspections() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "walex-inspection"]
