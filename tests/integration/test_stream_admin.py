"""The admin's stream page: its contents, permissions and actions."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from html import unescape
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.urls import resolve
from django.utils import timezone
from pytest_django import Settings

from tests.listening import Listening
from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.models import (
    Checkpoint,
    Gap,
    ListenerReport,
    ParkedEvent,
    Stream,
    StreamSample,
)
from walex_django.replication import server
from walex_django.replication.connection import Connection

from .test_reports import known_to_run

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

PAGE = "/admin/walex_django/stream/"
PAUSE, RESUME = f"{PAGE}default/pause/", f"{PAGE}default/resume/"
DROP = f"{PAGE}default/drop/zoo_walex/"

Login = Callable[..., Client]


@pytest.fixture
def login() -> Login:
    """Return a function that logs in a staff user with some permissions."""

    def login(*may: str) -> Client:
        user = User.objects.create_user("clerk", is_staff=True)
        user.user_permissions.set(
            Permission.objects.get(
                content_type__app_label="walex_django", codename=codename
            )
            for codename in may
        )
        client = Client()
        client.force_login(user)
        return client

    return login


@pytest.fixture
def orphan(durable: StreamConfig, sql: Connection) -> Any:
    """A slot that no stream reads, in another database of the server."""
    sql.execute("CREATE DATABASE elsewhere")
    url = psycopg.conninfo.make_conninfo(
        **{**durable.connection_parameters(), "dbname": "elsewhere"}
    )
    try:
        with psycopg.connect(url, autocommit=True) as elsewhere:
            elsewhere.execute(
                "SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')"
            )
        yield "left_behind"
    finally:
        with suppress(psycopg.errors.UndefinedObject):
            sql.execute("SELECT pg_drop_replication_slot('left_behind')")
        sql.execute("DROP DATABASE elsewhere")


def _shown(client: Client, path: str = PAGE) -> str:
    """Return the text of a page, without its markup."""
    response = client.get(path)
    assert response.status_code == 200
    html = response.content.decode()
    # The tests' Content-Security-Policy would block these.
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html)
    assert not re.search(r"<script(?![^>]* src=)", html)
    assert "<style" not in html
    text = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(text).split())


def _perform(client: Client, path: str, **data: str) -> str:
    """Perform an action; return the message that the page shows."""
    response = client.post(path, data, follow=True)
    assert response.redirect_chain == [(PAGE, 302)]
    (message,) = map(str, response.context["messages"])
    return message


def _slots(sql: Connection) -> set[str]:
    return {
        name for (name,) in sql.execute("SELECT slot_name FROM pg_replication_slots")
    }


def test_stream_with_a_reader(
    durable: StreamConfig, admin_client: Client, sql: Connection
) -> None:
    with known_to_run(durable):
        shown = _shown(admin_client)
        ((pid, lsn),) = sql.execute(
            "SELECT active_pid, restart_lsn::text FROM pg_replication_slots"
            " WHERE slot_name = 'zoo_walex'"
        )

    assert "default running" in shown
    assert f"zoo_walex durable Reader PostgreSQL process {pid}" in shown
    assert "from 127.0.0.1, since" in shown
    assert f"Restart LSN {lsn} WAL status reserved" in shown
    assert "WAL until slot is lost no limit" in shown
    assert "zoo_events : 9 tables" in shown
    assert "public.zoo_keeper key" in shown
    assert "Drop slot" not in shown


def test_stream_without_a_reader(durable: StreamConfig, admin_client: Client) -> None:
    shown = _shown(admin_client)

    assert "default stopped" in shown
    assert "Reader none" in shown
    assert "Drop slot" in shown
    # The other stream of the settings was never set up.
    assert "second no slot" in shown
    assert "python manage.py walex_setup" in shown


def test_reports_of_listeners(durable: StreamConfig, admin_client: Client) -> None:
    now = timezone.now()
    for state, reason in (("retrying", "The network is down."), ("running", "")):
        ListenerReport.objects.create(
            stream="default",
            listener=f"{len(reason):032}",
            host="h1",
            process=4711,
            backend_pid=1 if state == "running" else None,
            state=state,
            reason=reason,
            since=now,
            events=12345,
            failures=3,
            last_event_id="0/1B:2",
            last_event_at=now,
            updated_at=now,
        )
    StreamSample.objects.create(
        stream="default", at=now, seconds=10, events=120, transactions=6, lag=2**20
    )
    ParkedEvent.objects.create(
        stream="default", signal="post_db_insert", receiver="zoo.adopt", attempts=6
    )
    shown = _shown(admin_client)

    assert "default retrying" in shown
    assert "The network is down." in shown
    assert "h1 4711 gone (was running) 12,345" in shown
    assert "Events 2 /s Transactions 0.1 /s" in shown
    assert "Failed calls 3 Parked 1" in shown
    assert "Last delivered event 0/1B:2" in shown
    assert "Events per second Peak 12 at" in shown
    assert "Peak 1 MB at" in shown


def test_other_slots_of_the_server(orphan: str, admin_client: Client) -> None:
    shown = _shown(admin_client)

    assert re.search(
        r"left_behind orphaned \w+ logical, pgoutput elsewhere none", shown
    )


def test_no_streams(settings: Settings, admin_client: Client) -> None:
    settings.WALEX = {}

    assert "WALEX does not define any streams. W001 Add WALEX = {" in _shown(
        admin_client
    )


def test_invalid_settings(settings: Settings, admin_client: Client) -> None:
    settings.WALEX = {"default": {"PUBLICATON": "zoo_events"}}

    shown = _shown(admin_client)
    assert "WALEX['default'] has an unknown key 'PUBLICATON'." in shown
    assert "Did you mean 'PUBLICATION'" in shown


def test_unreachable_server(
    durable: StreamConfig, settings: Settings, admin_client: Client
) -> None:
    away = {"URL": "postgres://zoo:s3cret@127.0.0.1:1/zoo", "SLOT_NAME": "away"}
    settings.WALEX = {**settings.WALEX, "away": away}

    shown = _shown(admin_client)
    assert "away server unreachable" in shown
    assert "Cannot connect to PostgreSQL" in shown
    assert "Check that the server is running" in shown
    assert "s3cret" not in shown
    # The other streams are still shown.
    assert "default stopped" in shown
    message = _perform(admin_client, f"{PAGE}away/drop/away/", reason="It is away.")
    assert "Cannot connect to PostgreSQL" in message


def test_missing_table(durable: StreamConfig, admin_client: Client) -> None:
    rename = "ALTER TABLE walex_django_{} RENAME TO walex_django_{}"
    with connection.cursor() as cursor:
        cursor.execute(rename.format("streamsample", "hidden"))
        try:
            shown = _shown(admin_client)
        finally:
            cursor.execute(rename.format("hidden", "streamsample"))
    assert "A table of walex_django is missing in the database" in shown
    assert "python manage.py migrate walex_django --database default" in shown
    assert "zoo_walex durable" in shown
    assert "Events \N{EN DASH}" in shown
    assert "Parked \N{EN DASH}" in shown


def test_without_time_zones(
    durable: StreamConfig, settings: Settings, admin_client: Client, sql: Connection
) -> None:
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('unheard')")
    settings.USE_TZ = False

    shown = _shown(admin_client)
    assert "default stopped" in shown
    if sql.info.server_version >= 170000:  # it reports when a slot lost its reader
        assert re.search(r"Lag \S+ k?B (under a second|\d+ s)", shown)


def test_stream_name_is_escaped(
    durable: StreamConfig, settings: Settings, admin_client: Client
) -> None:
    name = "<b>käse/brot"
    settings.WALEX = {name: settings.WALEX["default"]}

    response = admin_client.get(PAGE)
    assert "<b>" not in response.content.decode()
    (pause,) = re.findall(r'href="([^"]+/pause/)"', response.content.decode())
    assert pause == f"{PAGE}{quote(name, safe='/')}/pause/"
    assert "&lt;b&gt;käse/brot" in admin_client.get(pause).content.decode()


def test_refresh_returns_only_the_streams(
    durable: StreamConfig, admin_client: Client
) -> None:
    response = admin_client.get(PAGE, headers={"X-Walex-Refresh": "1"})

    html = response.content.decode()
    assert "zoo_walex" in html
    assert "<html" not in html
    assert "X-Walex-Refresh" in response["Vary"]


def test_view_permission_allows_no_action(
    durable: StreamConfig, orphan: str, login: Login, sql: Connection
) -> None:
    client = login("view_stream")

    shown = _shown(client)
    assert "zoo_walex" in shown
    assert "left_behind" in shown
    assert "Pause" not in shown
    assert not re.search(r"\bDrop\b", shown)
    assert PAGE in client.get("/admin/").content.decode()
    for action in (PAUSE, RESUME, DROP, f"{PAGE}default/drop/{orphan}/"):
        assert client.get(action).status_code == 403
        assert client.post(action, {"reason": "I want to."}).status_code == 403
    assert stored.kept("default") == {}
    assert {"zoo_walex", "left_behind"} <= _slots(sql)
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    "may",
    [
        [],
        ["drop_slot", "pause_stream", "resume_stream"],
        ["view_parkedevent", "change_parkedevent", "replay_parkedevent"],
    ],
)
def test_staff_without_the_view_permission(
    durable: StreamConfig, login: Login, may: Any
) -> None:
    client = login(*may)

    assert PAGE not in client.get("/admin/").content.decode()
    for path in (PAGE, PAUSE, RESUME, DROP):
        assert client.get(path).status_code == 403
        assert client.post(path).status_code == 403


def test_user_who_is_not_staff_must_log_in(durable: StreamConfig) -> None:
    client = Client()
    client.force_login(User.objects.create_user("customer"))

    for path in (PAGE, PAUSE, RESUME, DROP):
        for response in (client.get(path), client.post(path)):
            assert response.status_code == 302
            assert response["Location"].startswith("/admin/login/")


@pytest.mark.parametrize(
    ("may", "offered"),
    [
        ("pause_stream", {PAUSE}),
        ("resume_stream", set()),
        ("drop_slot", {DROP}),
    ],
)
def test_each_action_has_its_permission(
    durable: StreamConfig, login: Login, may: str, offered: set[str]
) -> None:
    client = login("view_stream", may)
    links = re.findall(rf'href="({PAGE}\w[^"]*)"', client.get(PAGE).content.decode())
    allowed = {"pause_stream": PAUSE, "resume_stream": RESUME, "drop_slot": DROP}

    assert {link for link in links if link.startswith(f"{PAGE}default")} == offered
    for permission, path in allowed.items():
        assert client.get(path).status_code == (200 if permission == may else 403)


@pytest.mark.parametrize("path", ["add/", "1/", "1/change/", "1/delete/", "1/history/"])
def test_streams_have_no_object_pages(admin_client: Client, path: str) -> None:
    assert admin_client.get(f"{PAGE}{path}").status_code == 404
    assert admin_client.post(f"{PAGE}{path}").status_code == 404


@pytest.mark.parametrize("path", ["typo/pause/", "typo/resume/", "typo/drop/x/"])
def test_unknown_stream(admin_client: Client, path: str) -> None:
    assert admin_client.get(f"{PAGE}{path}").status_code == 404


def test_pause_and_resume(durable: StreamConfig, login: Login) -> None:
    client = login("view_stream", "pause_stream", "resume_stream")
    question = _shown(client, PAUSE)
    assert "Pause the stream “ default ”?" in question
    assert "the server keeps WAL for the slot" in question
    assert stored.kept("default") == {}
    try:
        assert "Pausing the stream “default” after the current" in _perform(
            client, PAUSE
        )
        assert stored.kept("default") == {"PAUSED": True}
        assert "Pausing after the current transaction." in _shown(client)
        links = client.get(PAGE).content.decode()
        assert RESUME in links
        assert PAUSE not in links

        assert "Resume the stream “ default ”?" in _shown(client, RESUME)
        assert "Resuming the stream “default”." in _perform(client, RESUME)
        assert stored.kept("default") == {"PAUSED": False}
    finally:
        stored.forget(durable, "PAUSED")
    logged = LogEntry.objects.order_by("pk")
    assert [(entry.object_repr, entry.change_message) for entry in logged] == [
        ("default", "Paused."),
        ("default", "Resumed."),
    ]
    assert {entry.action_flag for entry in logged} == {CHANGE}
    of = ContentType.objects.get_for_model(Stream, for_concrete_model=False)
    assert {entry.content_type for entry in logged} == {of}
    assert "Resumed." not in client.get("/admin/").content.decode()


def test_views_do_not_run_in_a_transaction() -> None:
    for path in (PAGE, PAUSE, RESUME, DROP):
        view: Any = resolve(path).func
        # Relevant with ATOMIC_REQUESTS.
        assert view._non_atomic_requests == {"default", "second"}


def test_orphaned_slot_of_another_database_is_dropped(
    orphan: str, admin_client: Client, sql: Connection
) -> None:
    path = f"{PAGE}default/drop/{orphan}/"
    question = _shown(admin_client, path)
    assert "Drop the replication slot “ left_behind ”?" in question
    assert "No stream in WALEX reads from it." in question
    assert "plugin pgoutput in the database elsewhere" in question
    assert "left_behind" in _slots(sql)

    assert _perform(admin_client, path) == "The slot “left_behind” was dropped."
    assert "left_behind" not in _slots(sql)
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_repr) == (DELETION, "left_behind")
    # A second click.
    assert "does not exist" in _perform(admin_client, path)
    assert LogEntry.objects.count() == 1


def test_dropping_the_slot_of_a_stream_requires_a_reason(
    durable: StreamConfig, admin_client: Client, sql: Connection
) -> None:
    system, _ = server.identity(sql)
    Checkpoint.objects.get_or_create(
        system_identifier=system,
        slot_name="zoo_walex",
        defaults={"stream": "default", "timeline": 1, "position": 1},
    )
    sql.execute("INSERT INTO zoo_keeper (name) VALUES ('unheard')")
    question = _shown(admin_client, DROP)
    assert "The stream “default” reads from it." in question
    assert "will never be delivered" in question

    response = admin_client.post(DROP, {"reason": "  "})
    assert "Enter a reason" in response.content.decode()
    assert "zoo_walex" in _slots(sql)

    done = _perform(admin_client, DROP, reason="The zoo moves to another server.")
    assert done == "The slot “zoo_walex” was dropped."
    assert "zoo_walex" not in _slots(sql)
    assert not Checkpoint.objects.filter(slot_name="zoo_walex").exists()
    entry = LogEntry.objects.get()
    assert entry.object_repr == "zoo_walex"
    assert "The zoo moves to another server." in entry.change_message
    assert "default no slot" in _shown(admin_client)


def test_slot_in_use_is_not_dropped(
    durable: StreamConfig, admin_client: Client, sql: Connection
) -> None:
    with Listening(durable):
        question = _shown(admin_client, DROP)
        assert "is in use by PostgreSQL process" in question
        assert "Yes, drop it" not in question
        message = _perform(admin_client, DROP, reason="I want to.")
        assert "Stop its listener first." in message
        assert "zoo_walex" in _slots(sql)
    assert not LogEntry.objects.exists()


def test_role_without_permission_cannot_drop_a_slot(
    durable: StreamConfig,
    settings: Settings,
    admin_client: Client,
    sql: Connection,
) -> None:
    parameters = durable.connection_parameters()
    sql.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    url = (
        f"postgres://weak:weak@{parameters['host']}:{parameters['port']}"
        f"/{parameters['dbname']}"
    )
    default = {**settings.WALEX["default"], "URL": url}
    settings.WALEX = {"default": default}
    try:
        message = _perform(admin_client, DROP, reason="I want to.")
    finally:
        sql.execute("DROP ROLE weak")
    assert "PostgreSQL refused the command: " in message
    assert "pg_drop_replication_slot('zoo_walex');" in message
    assert "zoo_walex" in _slots(sql)
    assert not LogEntry.objects.exists()


def test_gaps_are_shown_with_the_command_for_the_pending_one(
    durable: StreamConfig, login: Login, sql: Connection
) -> None:
    system, _ = server.identity(sql)
    gap = {
        "stream": "default",
        "slot_name": durable.slot_name,
        "system_identifier": system,
        "found_at": timezone.now(),
        "table": "public.zoo_keeper",
    }
    Gap.objects.create(
        **gap,
        position=0x10,
        error="division by zero",
        skipped_at=timezone.now(),
        skipped_by="ada@worker",
    )
    Gap.objects.create(**gap, position=0x20, error="row is <too> large")

    page = _shown(login("view_stream"))

    assert "change at 0/20" in page
    assert "row is <too> large" in page
    assert "Run: python manage.py walex_skip --stream default" in page
    assert "change at 0/10" in page
    assert "by ada@worker" in page
    assert page.count("walex_skip") == 1
