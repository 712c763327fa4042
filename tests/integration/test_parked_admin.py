"""Parked events in the admin: permissions, displayed values and actions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.urls import POLICY
from tests.zoo.models import Animal, Keeper
from walex_django import Event
from walex_django.admin.parked import MAX_REPLAYED
from walex_django.conf.stream import StreamConfig
from walex_django.events.masking import MASK
from walex_django.models import ParkedEvent
from walex_django.signals import (
    post_db_change,
    post_db_insert,
    post_db_message,
    post_db_transaction,
)

from .handling import wait_until_done
from .mascots import Sql

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "ada@example.org"
LIST = "/admin/walex_django/parkedevent/"

As = Callable[..., Client]


@pytest.fixture
def sign_in() -> As:
    """Return a function that signs in a staff user with some permissions, or all."""

    def sign_in(*actions: str) -> Client:
        user = User.objects.create(
            username="-".join(actions) or "nobody",
            is_staff=True,
            is_superuser="all" in actions,
        )
        names = [f"{action}_parkedevent" for action in actions]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(user)
        return client

    return sign_in


class Moody:
    """A receiver that raises, naming a keeper, while ``raises`` is true."""

    def __init__(self) -> None:
        self.raises = True
        self.names: list[str] = []

    def __call__(self, event: Event, **kwargs: Any) -> None:
        if event.name == "zoo_building":
            return
        self.names.append((event.new_record or event.old_record or {})["name"])
        if self.raises:
            raise ValueError(f"no mail to {self.names[-1]}")


@pytest.fixture
def moody(config: StreamConfig, connect: Connect) -> Moody:
    """A receiver with a parked event."""
    moody = Moody()
    connect(post_db_insert, moody)
    park(config, lambda: Keeper.objects.create(name=SECRET))
    assert moody.names == [SECRET]
    return moody


def park(config: StreamConfig, change: Callable[[], object]) -> None:
    """Make changes whose calls are parked."""
    with Listening(replace(config, max_retries=0)) as listening:
        change()
        wait_until_done(listening)


def make_sensitive(settings: Settings, *fields: str) -> None:
    walex = settings.WALEX
    filters = {"zoo.*": {"sensitive_fields": fields}}
    settings.WALEX = {**walex, "default": {**walex["default"], "FILTERS": filters}}


def detail(parked: ParkedEvent) -> str:
    return reverse("admin:walex_django_parkedevent_change", args=[parked.pk])


def shown(client: Client, page: str) -> str:
    """Return a page, which must comply with the strict Content-Security-Policy."""
    response = client.get(page)
    assert response.status_code == 200, response
    assert response["Content-Security-Policy"] == POLICY == "default-src 'self'"
    text = response.content.decode()
    assert_strict(text)
    return text


def assert_strict(text: str) -> None:
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    for script in re.findall(r"<script[^>]*>", text):
        assert "src=" in script or 'type="application/json"' in script
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)


def messages_of(response: Any) -> list[str]:
    """Return the messages of a response, with their levels."""
    return [
        f"{message.level_tag}: {message}"
        for message in get_messages(response.wsgi_request)
    ]


def choose(action: str, **more: object) -> dict[str, object]:
    chosen = list(ParkedEvent.objects.values_list("pk", flat=True))
    return {"action": action, "_selected_action": chosen, **more}


REPLAY = "replay_selected"


class TestPages:
    def test_list_shows_parked_events(self, moody: Moody, sign_in: As) -> None:
        parked = ParkedEvent.objects.get()
        text = shown(sign_in("view"), LIST)
        for value in (
            parked.event_id,
            "public.zoo_keeper",
            parked.receiver,
            "post_db_insert",
            f"ValueError: no mail to {SECRET}",
        ):
            assert value in text
        assert f'href="{detail(parked)}"' in text

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("", 1),
            ("?stream=default", 1),
            ("?stream=other", 0),
            ("?table=public.zoo_keeper", 1),
            ("?table=public.zoo_animal", 0),
            ("?receiver__contains=Moody", 1),
            ("?receiver=tests.integration.test_parked_admin.Moody", 1),
            ("?q=Moody", 1),
            ("?q=nobody", 0),
            (f"?q={SECRET}", 0),
        ],
    )
    def test_filters_and_search(
        self, query: str, count: int, moody: Moody, sign_in: As
    ) -> None:
        response = sign_in("view").get(LIST + query)
        assert response.context["cl"].result_count == count

    @pytest.mark.parametrize("column", ["error", "traceback", "arguments_json"])
    def test_values_cannot_be_probed_with_lookups(
        self, column: str, moody: Moody, sign_in: As
    ) -> None:
        response = sign_in("view").get(LIST, {f"{column}__contains": SECRET})
        assert response.status_code == 400

    def test_search_by_event_id(self, moody: Moody, sign_in: As) -> None:
        event_id = ParkedEvent.objects.get().event_id
        response = sign_in("view").get(LIST, {"q": event_id})
        assert response.context["cl"].result_count == 1

    def test_detail_of_an_insert(self, moody: Moody, sign_in: As) -> None:
        parked = ParkedEvent.objects.get()
        text = shown(sign_in("view"), detail(parked))
        keeper = Keeper.objects.get()
        assert cells(text, "id") == ["bigint", str(keeper.pk)]
        assert cells(text, "name") == ["character varying", SECRET]
        assert f"ValueError: no mail to {SECRET}" in text
        assert "in __call__" in text
        assert "zoo.Keeper" in text
        assert parked.event_id in text

    def test_detail_of_an_update(
        self, config: StreamConfig, connect: Connect, sign_in: As, sql: Sql
    ) -> None:
        connect(post_db_change, Moody())
        sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY FULL")
        animal = Animal.objects.create(name="Leo", habits={"<b>": 1.50}, tame=True)
        try:
            park(config, lambda: Animal.objects.filter(pk=animal.pk).update(name="Mia"))
        finally:
            sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY DEFAULT")
        text = shown(sign_in("view"), detail(ParkedEvent.objects.get()))
        assert cells(text, "name") == ["character varying", "Leo", "Mia", "changed"]
        assert cells(text, "tame") == ["boolean", "true", "true", ""]
        assert cells(text, "photo") == ["bytea", "NULL", "NULL", ""]
        assert cells(text, "habits")[1] == "{&quot;&lt;b&gt;&quot;: 1.5}"

    def test_detail_of_a_delete(
        self, config: StreamConfig, connect: Connect, sign_in: As
    ) -> None:
        def fail(**kwargs: Any) -> None:
            raise ValueError

        keeper = Keeper.objects.create(name="Ada")
        pk = keeper.pk
        connect(post_db_change, fail, Keeper)
        park(config, keeper.delete)
        text = shown(sign_in("view"), detail(ParkedEvent.objects.get()))
        assert cells(text, "id") == ["bigint", str(pk)]
        assert cells(text, "name") == ["character varying", "–"]  # noqa: RUF001

    def test_details_of_a_transaction_a_truncate_and_a_message(
        self, config: StreamConfig, connect: Connect, sign_in: As, sql: Sql
    ) -> None:
        def fail(**kwargs: Any) -> None:
            raise ValueError

        connect(post_db_transaction, fail)
        connect(post_db_message, fail)
        with Listening(
            replace(config, max_retries=0, messages=("*",), subscriptions=("zoo.*",))
        ):
            sql.execute(
                "INSERT INTO zoo_keeper (name) SELECT 'k' || n"
                " FROM generate_series(1, 60) AS n"
            )
            sql.execute("TRUNCATE zoo_keeper RESTART IDENTITY CASCADE")
            sql.execute("SELECT pg_logical_emit_message(true, 'zoo', 'hello <b>')")
            eventually(lambda: ParkedEvent.objects.count() == 3, "parking")
        client = sign_in("view")
        pages = [shown(client, detail(each)) for each in ParkedEvent.objects.all()]
        assert sum("k50<" in page and "k51<" not in page for page in pages) == 1
        assert sum("10 more events of this call" in page for page in pages) == 1
        assert sum("TRUNCATE RESTART IDENTITY CASCADE" in page for page in pages) == 1
        assert sum("hello &lt;b&gt;" in page for page in pages) == 1

    def test_large_values_are_truncated(
        self, config: StreamConfig, connect: Connect, sign_in: As
    ) -> None:
        connect(post_db_insert, Moody())
        large = "x" * 3_000_000
        park(config, lambda: Animal.objects.create(name="Leo", story=large))
        text = shown(sign_in("view"), detail(ParkedEvent.objects.get()))
        assert len(text) < 60_000
        assert cells(text, "story")[1].startswith("x" * 1000)
        assert "… of 3000000 characters" in text

    def test_missing_event_redirects(self, moody: Moody, sign_in: As) -> None:
        response = sign_in("view").get(f"{LIST}4711/change/")
        assert response.status_code == 302


def cells(text: str, column: str) -> list[str]:
    """Return the cells of a row of the table of values."""
    found = re.search(
        rf"<th scope=\"row\"><code>{column}</code></th>(.*?)</tr>", text, re.DOTALL
    )
    assert found, text
    shown = re.findall(r"<td[^>]*>(.*?)</td>", found[1], re.DOTALL)
    return [re.sub(r"<[^>]*>", "", each).strip() for each in shown]


class TestSensitiveFields:
    def test_values_are_masked(
        self, moody: Moody, sign_in: As, settings: Settings
    ) -> None:
        make_sensitive(settings, "name")
        parked = ParkedEvent.objects.get()
        client = sign_in("all")
        for page in (LIST, detail(parked), f"{LIST}{parked.pk}/delete/"):
            assert SECRET not in shown(client, page)
        text = shown(client, detail(parked))
        assert cells(text, "name") == ["character varying", MASK]
        assert f"ValueError: no mail to {MASK}" in text
        assert f"ValueError: no mail to {MASK}" in shown(client, LIST)
        assert cells(text, "id") == ["bigint", str(Keeper.objects.get().pk)]

    def test_replay_passes_the_values_and_masks_the_error(
        self, moody: Moody, sign_in: As, settings: Settings
    ) -> None:
        make_sensitive(settings, "name")
        client = sign_in("view", "replay")
        response = client.post(LIST, choose(REPLAY, confirmed="yes"))
        assert moody.names == [SECRET] * 2
        (message,) = messages_of(response)
        assert message.endswith(f"failed again: ValueError: no mail to {MASK}")
        assert SECRET not in repr(LogEntry.objects.values_list())

    def test_all_values_of_a_removed_stream_are_masked(
        self, moody: Moody, sign_in: As, settings: Settings
    ) -> None:
        settings.WALEX = {"other": settings.WALEX["default"]}
        parked = ParkedEvent.objects.get()
        client = sign_in("view")
        text = shown(client, detail(parked))
        assert SECRET not in shown(client, LIST) + text
        assert cells(text, "id") == ["bigint", MASK]
        assert "all of them are hidden" in text


class TestPermissions:
    def test_pages_are_forbidden_without_permissions(
        self, moody: Moody, sign_in: As
    ) -> None:
        client = sign_in()
        parked = ParkedEvent.objects.get()
        for page in (LIST, detail(parked), f"{LIST}{parked.pk}/history/"):
            assert client.get(page).status_code == 403
        assert "parkedevent" not in client.get("/admin/").content.decode()

    @pytest.mark.parametrize("action", ["change", "add", "replay", "delete"])
    def test_pages_require_the_view_permission(
        self, action: str, moody: Moody, sign_in: As
    ) -> None:
        client = sign_in(action)
        for page in (LIST, detail(ParkedEvent.objects.get())):
            assert client.get(page).status_code == 403
        assert client.post(LIST, choose(REPLAY)).status_code == 403

    def test_view_permission_allows_no_action(self, moody: Moody, sign_in: As) -> None:
        client = sign_in("view", "add", "change")
        parked = ParkedEvent.objects.get()
        for page in (LIST, detail(parked)):
            text = shown(client, page)
            assert "replay_selected" not in text
            assert "delete" not in text
        for refused in (
            client.post(LIST, choose(REPLAY)),
            client.post(LIST, choose(REPLAY, confirmed="yes")),
            client.post(LIST, choose(REPLAY, confirmed="yes", index="0")),
            client.post(LIST, choose("delete_selected", post="yes")),
            client.post(detail(parked), {"receiver": "other"}),
            client.get(f"{LIST}{parked.pk}/delete/"),
            client.post(f"{LIST}{parked.pk}/delete/", {"post": "yes"}),
            client.get(f"{LIST}add/"),
            client.post(f"{LIST}add/"),
        ):
            assert refused.status_code == 403
        assert moody.names == [SECRET]
        assert ParkedEvent.objects.count() == 1

    def test_superuser_cannot_add_or_change_events(
        self, moody: Moody, sign_in: As
    ) -> None:
        client = sign_in("all")
        page = detail(ParkedEvent.objects.get())
        assert client.post(page, {"receiver": "other"}).status_code == 403
        assert client.get(f"{LIST}add/").status_code == 403

    def test_replay_and_delete_have_separate_permissions(
        self, moody: Moody, sign_in: As
    ) -> None:
        page = detail(ParkedEvent.objects.get())
        replays, deletes = sign_in("view", "replay"), sign_in("view", "delete")
        assert "Replay…" in shown(replays, page)
        assert "deletelink" not in shown(replays, page)
        assert "Replay…" not in shown(deletes, page)
        assert "deletelink" in shown(deletes, page)
        refused = deletes.post(LIST, choose(REPLAY, confirmed="yes"))
        assert refused.status_code == 403
        refused = replays.post(LIST, choose("delete_selected", post="yes"))
        assert refused.status_code == 403
        assert ParkedEvent.objects.count() == 1


class TestActions:
    def test_replay_asks_for_confirmation(self, moody: Moody, sign_in: As) -> None:
        response = sign_in("view", "replay").post(LIST, choose(REPLAY))
        text = response.content.decode()
        assert_strict(text)
        assert "in this web process" in text
        assert ParkedEvent.objects.get().event_id in text
        assert "tests.integration.test_parked_admin.Moody" in text
        assert moody.names == [SECRET]

    @pytest.mark.parametrize("index", [{}, {"index": "0"}], ids=["detail", "list"])
    def test_delivered_event_is_removed(
        self, index: dict[str, str], moody: Moody, sign_in: As
    ) -> None:
        moody.raises = False
        parked = ParkedEvent.objects.get()
        client = sign_in("view", "replay")
        response = client.post(LIST, choose(REPLAY, confirmed="yes", **index))
        assert response.status_code == 302
        assert messages_of(response) == [f"success: {parked} was delivered."]
        assert moody.names == [SECRET] * 2
        assert not ParkedEvent.objects.exists()
        entry = LogEntry.objects.get()
        assert entry.object_id == str(parked.pk)
        assert entry.object_repr == str(parked)
        assert entry.get_change_message() == "Replayed: delivered."

    def test_event_that_fails_again_stays_parked(
        self, moody: Moody, sign_in: As
    ) -> None:
        client = sign_in("view", "replay")
        response = client.post(LIST, choose(REPLAY, confirmed="yes"))
        parked = ParkedEvent.objects.get()
        assert messages_of(response) == [
            f"error: {parked} failed again: ValueError: no mail to {SECRET}"
        ]
        assert parked.attempts == 2
        assert LogEntry.objects.get().change_message == "Replayed: failed again."
        assert "Replayed: failed again." in shown(client, f"{LIST}{parked.pk}/history/")

    def test_missing_receiver_is_reported(self, moody: Moody, sign_in: As) -> None:
        ParkedEvent.objects.update(receiver="shop.receivers.gone")
        client = sign_in("view", "replay")
        (message,) = messages_of(client.post(LIST, choose(REPLAY, confirmed="yes")))
        assert "shop.receivers.gone is not connected to post_db_insert." in message
        assert "delete the parked event" in message
        assert ParkedEvent.objects.count() == 1

    def test_replay_of_too_many_events_is_refused(
        self, moody: Moody, sign_in: As
    ) -> None:
        parked = ParkedEvent.objects.get()
        copies = []
        for _ in range(MAX_REPLAYED):
            parked.pk = None
            copies.append(ParkedEvent(**values(parked)))
        ParkedEvent.objects.bulk_create(copies)
        client = sign_in("view", "replay")
        (message,) = messages_of(client.post(LIST, choose(REPLAY, confirmed="yes")))
        assert "python manage.py walex_replay" in message
        assert moody.names == [SECRET]

    def test_delete_asks_for_confirmation(self, moody: Moody, sign_in: As) -> None:
        parked = ParkedEvent.objects.get()
        client = sign_in("view", "delete")
        page = f"{LIST}{parked.pk}/delete/"
        assert "Are you sure" in shown(client, page)
        assert ParkedEvent.objects.exists()
        assert client.post(page, {"post": "yes"}).status_code == 302
        assert not ParkedEvent.objects.exists()
        assert LogEntry.objects.get().object_repr == str(parked)
        assert moody.names == [SECRET]

    def test_several_events_are_deleted(self, moody: Moody, sign_in: As) -> None:
        client = sign_in("view", "delete")
        chosen = choose("delete_selected", index="0")
        assert "Are you sure" in client.post(LIST, chosen).content.decode()
        assert ParkedEvent.objects.exists()
        client.post(LIST, choose("delete_selected", post="yes"))
        assert not ParkedEvent.objects.exists()


def values(parked: ParkedEvent) -> dict[str, Any]:
    names = [field.attname for field in ParkedEvent._meta.concrete_fields]
    return {name: getattr(parked, name) for name in names if name != "id"}
