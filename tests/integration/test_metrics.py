"""The metrics served to Prometheus, compared with the changes in the database."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from django.test import Client
from django.urls import include, path
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from tests.listening import Listening
from tests.process import ROOT, Process, eventually, read_journal
from tests.zoo.models import Building, Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerReport, ParkedEvent
from walex_django.monitoring import metrics
from walex_django.monitoring.metrics import Family
from walex_django.monitoring.status import StreamState
from walex_django.replication import slots
from walex_django.replication.connection import Connection

from .test_reports import known_to_run

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "second"]),
    pytest.mark.urls(__name__),
]

urlpatterns = [path("walex/", include("walex_django.urls"))]

ONE = ("walex_listen", "--stream=default")
LISTEN = (*ONE, "--metrics-port=0")

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _values(text: str) -> Values:
    """Return the values in a text, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(values: Values, family: Family, **labels: str) -> float | None:
    assert set(labels) | {"stream"} == {*family.labels}
    return values.get((family.name, frozenset({"stream": "default", **labels}.items())))


def _scrape(listener: Process) -> Values:
    url = listener.wait_for("  metrics ").split()[1]
    with urlopen(url, timeout=10) as response:  # noqa: S310 - of our own process
        assert response.headers["Content-Type"].startswith("text/plain")
        return _values(response.read().decode())


def _view(client: Client) -> Values:
    answer = client.get("/walex/metrics/")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=")
    return _values(answer.text)


def test_listener_counts_delivered_changes(
    durable: StreamConfig, environment: dict[str, str], sql: Connection
) -> None:
    with Process(*LISTEN, env=environment) as listener:
        listener.wait_for("Quit with")
        before = _scrape(listener)
        Keeper.objects.bulk_create([Keeper(name=str(n)) for n in range(1200)])
        Keeper.objects.filter(name__lt="2").update(name="renamed")
        Keeper.objects.filter(name="renamed").delete()
        Building.objects.create(name="Aviary")
        sql.execute("TRUNCATE legacy.nobody_knows")
        renamed = 1200 - Keeper.objects.count()
        eventually(
            lambda: _value(_scrape(listener), metrics.TRANSACTIONS) == 5, "the end"
        )
        after = _scrape(listener)
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0

    assert _value(before, metrics.TRANSACTIONS) == 0
    assert _value(before, metrics.LISTENER_STATE, state="running") == 1
    counted = {
        (dict(labels)["table"], dict(labels)["type"]): value
        for (name, labels), value in after.items()
        if name == metrics.EVENTS.name
    }
    assert renamed > 100
    assert counted == {
        ("public.zoo_keeper", "insert"): 1200,
        ("public.zoo_keeper", "update"): renamed,
        ("public.zoo_keeper", "delete"): renamed,
        ("public.zoo_building", "insert"): 1,
        ("legacy.nobody_knows", "truncate"): 1,
    }
    assert _value(after, metrics.LISTENER_DELIVERING) == 0
    last = _value(after, metrics.LISTENER_LAST_EVENT)
    assert last is not None
    assert abs(time.time() - last) < 60
    states = [
        value
        for (name, _), value in after.items()
        if name == metrics.LISTENER_STATE.name
    ]
    assert sum(states) == 1
    assert ("process_resident_memory_bytes", frozenset()) in after


@pytest.mark.usefixtures("durable")
def test_listener_counts_retries_and_failures_by_receiver(
    environment: dict[str, str], client: Client
) -> None:
    retries = json.dumps({"MAX_RETRIES": 2, "RETRY_BACKOFF": 0.01})
    with Process(*LISTEN, env={**environment, "ZOO_STREAM": retries}) as listener:
        listener.wait_for("Quit with")
        Keeper.objects.create(name="raise")
        Keeper.objects.create(name="raise")
        listener.wait_for("parked")
        eventually(lambda: ParkedEvent.objects.count() == 2, "the parking")
        receiver = ParkedEvent.objects.values_list("receiver", flat=True)[0]
        eventually(
            lambda: _value(_scrape(listener), metrics.TRANSACTIONS) == 2, "the end"
        )
        after = _scrape(listener)
        assert _value(after, metrics.RECEIVER_RETRIES, receiver=receiver) == 4
        assert _value(after, metrics.RECEIVER_FAILURES, receiver=receiver) == 2
        # The listener reports when it exits, not only every ten seconds.
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    seen = _view(client)
    assert _value(seen, metrics.REPORTED_FAILURES) == 2
    assert _value(seen, metrics.PARKED_CALLS) == 2
    assert _value(seen, metrics.REPORTED_EVENTS) == 2
    assert _value(seen, metrics.REPORTED_TRANSACTIONS) == 2


@pytest.mark.parametrize("use_tz", ["yes", "no"])
@pytest.mark.usefixtures("durable")
def test_transaction_being_delivered_has_an_age(
    use_tz: str, environment: dict[str, str], journal: Path, sql: Connection
) -> None:
    sql.execute("SELECT pg_advisory_lock(1)")
    with Process(*LISTEN, env={**environment, "ZOO_USE_TZ": use_tz}) as listener:
        listener.wait_for("Quit with")
        Keeper.objects.create(name="wait for 1")
        eventually(
            lambda: (_value(_scrape(listener), metrics.LISTENER_DELIVERING) or 0) > 0.5,
            "its age",
        )
        sql.execute("SELECT pg_advisory_unlock(1)")
        eventually(lambda: len(read_journal(journal)) == 1, "the end")
        eventually(
            lambda: _value(_scrape(listener), metrics.LISTENER_DELIVERING) == 0,
            "the end",
        )


@pytest.mark.usefixtures("durable")
def test_port_is_free_after_exit(environment: dict[str, str]) -> None:
    with Process(*LISTEN, env=environment) as listener:
        listener.wait_for("Quit with")
        url = listener.wait_for("  metrics ").split()[1]
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    port = url.rpartition(":")[2].partition("/")[0]
    with pytest.raises(URLError):
        urlopen(url, timeout=5)  # noqa: S310 - of our own process
    with Process(*ONE, f"--metrics-port={port}", env=environment) as listener:
        assert listener.wait_for("  metrics ").split()[1] == url


@pytest.mark.usefixtures("durable")
def test_port_is_kept_across_reload(
    environment: dict[str, str], tmp_path: Path
) -> None:
    module = tmp_path / "reloaded.py"
    module.write_text("")
    env = {**environment, "PYTHONPATH": str(tmp_path), "ZOO_IMPORT": "reloaded"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--reload", f"--metrics-port={port}")
    with Process(*ONE, *options, env=env) as listener:
        listener.wait_for("Quit with")
        later = time.time() + 10
        os.utime(module, (later, later))
        eventually(lambda: listener.output.count("Quit with") == 2, "the restart")
        assert _value(_scrape(listener), metrics.LISTENER_STATE, state="running") == 1
        listener.signal(signal.SIGINT)
        listener.wait()
    assert "cannot be served" not in listener.output


@pytest.mark.usefixtures("durable")
def test_port_in_use_is_reported(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Process(*ONE, f"--metrics-port={port}", env=environment) as listener:
            assert listener.wait() == 1
    (line,) = listener.lines
    assert line == (
        f"CommandError: Metrics cannot be served at 127.0.0.1, port {port}: Address"
        " already in use. Choose another --metrics-port or --metrics-address."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics-port=0", "--metrics-address=198.51.100.1"], "cannot be served at"),
        (["--metrics-port=0", "--metrics-address=no such"], "cannot be served at"),
        (["--metrics-port=70000"], "'70000' is not a valid port: use a number from"),
        (["--metrics-port=http"], "'http' is not a valid port"),
    ],
)
def test_invalid_port_or_address_is_reported(
    environment: dict[str, str], options: list[str], message: str
) -> None:
    with Process(*ONE, *options, env=environment) as listener:
        assert listener.wait() != 0
    assert message in listener.lines[-1]
    assert "Traceback" not in listener.output


WITHOUT = "import sys; sys.modules['prometheus_client'] = None; import manage; "
NEEDS = (
    "Metrics need prometheus_client."
    ' Run: python -m pip install "walex_django[prometheus]"'
)


def test_listener_without_extra_names_package_to_install(
    environment: dict[str, str],
) -> None:
    program = ("-c", f"{WITHOUT} manage.main()")
    with Process(*LISTEN, env=environment, program=program) as listener:
        assert listener.wait() == 1
    assert listener.lines == [f"CommandError: {NEEDS}"]


def test_view_without_extra_names_package_to_install(
    environment: dict[str, str],
) -> None:
    script = (
        "import django; django.setup();"
        "from django.test import RequestFactory;"
        "from walex_django.views import metrics;"
        "answer = metrics(RequestFactory().get('/'));"
        "print(answer.status_code, answer.text)"
    )
    program = ("-c", WITHOUT + script)
    with Process(env=environment, program=program) as process:
        assert process.wait() == 0
    assert process.lines[0] == f"501 {NEEDS}"


def test_view_reports_slots_as_the_server_does(
    durable: StreamConfig, client: Client, sql: Connection
) -> None:
    sql.execute(
        "SELECT pg_create_logical_replication_slot('zoo_left_behind', 'pgoutput')"
    )
    try:
        Keeper.objects.create(name="Ada")
        stopped = _view(client)
        slot = slots.find(sql, "zoo_walex")
        left = slots.find(sql, "zoo_left_behind")
    finally:
        sql.execute("SELECT pg_drop_replication_slot('zoo_left_behind')")
    assert slot
    assert left

    assert _value(stopped, metrics.UP) == 1
    assert _state(stopped, "default") == "stopped"
    assert _value(stopped, metrics.SLOT_ACTIVE) == 0
    assert _value(stopped, metrics.SLOT_LOST) == 0
    # The WAL may have grown since.
    assert 0 < (_value(stopped, metrics.LAG_BYTES) or 0) <= (slot.lag or 0)
    assert 0 < (_value(stopped, metrics.RETAINED_BYTES) or 0) <= (slot.retained or 0)
    assert _value(stopped, metrics.SAFE_WAL_BYTES) is None
    assert _state(stopped, "second") == "missing"
    orphans = {
        dict(labels)["slot"]: value
        for (name, labels), value in stopped.items()
        if name == metrics.ORPHANED_BYTES.name
    }
    assert 0 < orphans["zoo_left_behind"] <= (left.retained or 0)
    assert "second_walex" not in orphans

    with known_to_run(durable) as listening:
        listening.wait_for(1)
        running = _view(client)
    assert _state(running, "default") == "running"
    assert _value(running, metrics.SLOT_ACTIVE) == 1
    assert _value(running, metrics.LAG_SECONDS) is not None


def _state(values: Values, stream: str) -> str:
    (state,) = [
        dict(labels)["state"]
        for (name, labels), value in values.items()
        if name == metrics.STREAM_STATE.name
        and value
        and dict(labels)["stream"] == stream
    ]
    return state


@pytest.mark.usefixtures("durable")
def test_view_reports_unreachable_server(client: Client, settings: Settings) -> None:
    default = settings.WALEX["default"]
    url = "postgres://zoo:s3cret@127.0.0.1:1/zoo"
    settings.WALEX = {"default": {**default, "URL": url}}
    answer = client.get("/walex/metrics/")

    values = _values(answer.text)
    assert _value(values, metrics.UP) == 0
    assert _state(values, "default") == "unreachable"
    assert _value(values, metrics.LAG_BYTES) is None
    assert _value(values, metrics.SLOT_ACTIVE) is None
    assert _value(values, metrics.PARKED_CALLS) == 0
    for secret in ("s3cret", "127.0.0.1", "zoo_walex"):
        assert secret not in answer.text


def test_view_reports_invalid_settings(client: Client, settings: Settings) -> None:
    settings.WALEX = {"default": {"PUBLICATION": "s3cret!", "URL": "s3cret"}}
    answer = client.get("/walex/metrics/")

    assert answer.status_code == 503
    assert answer.text == "The settings are invalid. Run: python manage.py check\n"


@pytest.mark.usefixtures("durable")
def test_view_supports_openmetrics(client: Client) -> None:
    answer = client.get(
        "/walex/metrics/", headers={"accept": "application/openmetrics-text"}
    )
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_listeners_are_counted_by_reported_state(
    durable: StreamConfig, client: Client
) -> None:
    ListenerReport.objects.all().delete()
    with Listening(durable):
        values = _view(client)
        for state in ("running", "standby"):
            assert _value(values, metrics.LISTENERS, state=state) == float(
                ListenerReport.objects.filter(stream="default", state=state).count()
            )


FAMILIES = (*metrics.STATUS_FAMILIES, *metrics.LISTENER_FAMILIES)
NAMES = {family.name for family in FAMILIES}
MONITORING = (ROOT / "docs/monitoring.md").read_text()
DASHBOARD = (ROOT / "docs/grafana/walex_django.json").read_text()


def test_every_metric_is_documented() -> None:
    rows = re.findall(r"^\| `(walex_\w+)` \| ([^|]*) \|", MONITORING, re.MULTILINE)

    assert {name: re.findall(r"`(\w+)`", labels) for name, labels in rows} == {
        family.name: [*family.labels] for family in FAMILIES
    }


def test_names_follow_prometheus_conventions() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"walex_[a-z_]+", family.name)
        assert family.help.endswith(".")
    assert len(NAMES) == len(FAMILIES)


def _expressions(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        own = [str(node[key]) for key in ("expr", "query") if key in node]
        return own + [e for value in node.values() for e in _expressions(value)]
    if isinstance(node, list):
        return [e for value in node for e in _expressions(value)]
    return []


def test_dashboard_queries_existing_metrics() -> None:
    dashboard = json.loads(DASHBOARD)
    queried = {
        name
        for expression in _expressions(dashboard)
        for name in re.findall(r"\bwalex_\w+", expression)
    }

    assert queried <= NAMES
    assert queried >= {
        family.name
        for family in (
            *(metrics.LAG_BYTES, metrics.LAG_SECONDS, metrics.EVENTS),
            *(metrics.STREAM_STATE, metrics.RETAINED_BYTES, metrics.SAFE_WAL_BYTES),
            *(metrics.PARKED_CALLS, metrics.RECEIVER_FAILURES),
        )
    }
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"


def test_alerts_query_existing_metrics_and_states() -> None:
    (alerts,) = re.findall(r"```yaml\n(groups:.*?)```", MONITORING, re.DOTALL)
    queried = set(re.findall(r"\bwalex_\w+", "".join(re.findall("expr: .*", alerts))))

    assert queried
    assert queried <= NAMES
    for states in re.findall(r'state[=!]~?"([a-z|]+)"', alerts + DASHBOARD):
        assert {*states.split("|")} <= {*StreamState.values}
