"""Changes made in a request have the context of the request."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import login
from django.contrib.auth.models import Group, User
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.urls import path

from tests.listening import Listening
from tests.zoo.models import Keeper
from walex_django.context import ContextMiddleware, context, current

from .wal import WalReader

pytestmark = pytest.mark.django_db(transaction=True)

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "walex_django.context.ContextMiddleware",
]


class TenantMiddleware(ContextMiddleware):
    """Adds a request's tenant, which it queries from the database."""

    def get_context(self, request: HttpRequest) -> dict[str, Any]:
        tenant, _ = Group.objects.get_or_create(name=request.headers["X-Tenant"])
        return {**super().get_context(request), "tenant": tenant.name, "in": current()}


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Keeper.objects.count()))


def hire(request: HttpRequest) -> HttpResponse:
    Keeper.objects.create(name="Ada")
    with context(step="second"):
        Keeper.objects.create(name="Bob")
    return HttpResponse()


@transaction.non_atomic_requests
async def ahire(request: HttpRequest) -> HttpResponse:
    await Keeper.objects.acreate(name="Ada")
    await sync_to_async(Keeper.objects.create)(name="Bob")
    return HttpResponse()


def fail(request: HttpRequest) -> HttpResponse:
    Keeper.objects.create(name="Ada")
    raise ValueError("as it happens")


def log_in(request: HttpRequest) -> HttpResponse:
    Keeper.objects.create(name="before")
    login(request, User.objects.get())
    Keeper.objects.create(name="after")
    return HttpResponse()


urlpatterns = [
    path("read/", read),
    path("hire/", hire),
    path("ahire/", ahire),
    path("fail/", fail),
    path("login/", log_in),
]


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = MIDDLEWARE
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"


@pytest.fixture
def ada(config: object) -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def client(ada: User) -> Client:
    client = Client()
    client.force_login(ada)
    return client


def post(path: str, user: User) -> dict[str, Any]:
    return {"user": user.pk, "path": path, "method": "POST"}


@pytest.mark.parametrize("atomic", [True, False])
def test_changes_in_view_have_user_and_path(
    client: Client, ada: User, listening: Listening, atomic: bool
) -> None:
    connection.settings_dict["ATOMIC_REQUESTS"] = atomic
    try:
        client.post("/hire/")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    first, second = listening.wait_for(2)
    assert (first.xid == second.xid) is atomic
    assert first.context == post("/hire/", ada)
    assert second.context == {**post("/hire/", ada), "step": "second"}
    assert current() is None


def test_anonymous_request_has_no_user(listening: Listening) -> None:
    Client().post("/hire/")

    event = listening.wait_for(2)[0]
    assert event.context == {"user": None, "path": "/hire/", "method": "POST"}


def test_request_without_authentication_middleware_has_no_user(
    listening: Listening, settings: Any
) -> None:
    settings.MIDDLEWARE = MIDDLEWARE[2:]
    Client().put("/hire/")

    event = listening.wait_for(2)[0]
    assert event.context == {"user": None, "path": "/hire/", "method": "PUT"}


def test_user_is_the_one_logged_in_when_the_change_is_made(
    ada: User, listening: Listening
) -> None:
    Client().post("/login/")

    before, after = listening.wait_for(2)
    assert before.context == {**post("/login/", ada), "user": None}
    assert after.context == post("/login/", ada)


def test_view_that_only_reads_writes_no_context(
    client: Client, sql: psycopg.Connection[Any], ada: User
) -> None:
    log = WalReader(sql)
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with CaptureQueriesContext(connection) as queries:
            client.get("/read/")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    # The user isn't queried, either.
    statements = [query["sql"] for query in queries.captured_queries]
    assert len(statements) == 3, statements
    assert (statements[0], statements[2]) == ("BEGIN", "COMMIT")
    assert log.messages() == []


def test_subclass_can_add_to_context(
    client: Client, ada: User, listening: Listening, settings: Any
) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:2], f"{__name__}.TenantMiddleware"]
    with context(server="a"):
        client.post("/hire/", headers={"X-Tenant": "zoo"})

    event = listening.wait_for(2)[0]
    assert event.context == {
        **post("/hire/", ada),
        "server": "a",
        "tenant": "zoo",
        "in": {"server": "a"},
    }


def test_failing_view_leaves_no_context_behind(
    client: Client, ada: User, listening: Listening
) -> None:
    client.raise_request_exception = False
    assert client.post("/fail/").status_code == 500
    assert current() is None
    Keeper.objects.create(name="Bob")

    contexts = [event.context for event in listening.wait_for(2)]
    assert contexts == [post("/fail/", ada), None]


def test_middleware_is_sync_and_async() -> None:
    assert ContextMiddleware.sync_capable
    assert ContextMiddleware.async_capable


@pytest.mark.parametrize("sync_between", [True, False])
def test_concurrent_asgi_requests_have_separate_contexts(
    ada: User, listening: Listening, settings: Any, sync_between: bool
) -> None:
    if sync_between:
        settings.MIDDLEWARE = [*MIDDLEWARE, f"{__name__}.only_sync"]

    async def send_requests() -> None:
        client = AsyncClient()
        await client.aforce_login(ada)
        await asyncio.gather(
            client.post("/ahire/"),
            client.put("/ahire/"),
            client.patch("/hire/"),
            AsyncClient().post("/ahire/"),
        )
        assert current() is None
        await sync_to_async(connections.close_all)()

    asyncio.run(send_requests())

    counts: dict[tuple[Any, ...], int] = {}
    for event in listening.wait_for(8):
        assert event.context is not None
        key = tuple(event.context.values())
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        (ada.pk, "/ahire/", "POST"): 2,
        (ada.pk, "/ahire/", "PUT"): 2,
        (ada.pk, "/hire/", "PATCH"): 1,
        (ada.pk, "/hire/", "PATCH", "second"): 1,
        (None, "/ahire/", "POST"): 2,
    }


def only_sync(get_response: Any) -> Any:
    """A middleware without async support, for which Django switches to threads."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = get_response(request)
        return response

    return middleware
