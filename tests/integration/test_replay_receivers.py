"""Which receiver ``walex_replay`` calls, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Event as Flag
from threading import Thread
from typing import Any

import psycopg
import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import connection, connections, transaction
from django.test import Client

from tests.listening import TIMEOUT, Listening
from tests.process import eventually
from tests.zoo.models import Keeper, Mascot
from walex_django import Event, on_insert
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.replay import ReplayResult
from walex_django.delivery.replay import replay as replay_events
from walex_django.models import ParkedEvent
from walex_django.signals import post_db_insert

from .mascots import name_of
from .test_replay import FAILED, make_atomic, park, replay

pytestmark = pytest.mark.django_db(transaction=True)


class Index:
    """An object whose methods are receivers."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.names: list[str] = []

    def update(self, event: Event, **kwargs: Any) -> None:
        if self.broken:
            raise ValueError("broken")
        self.names.append(name_of(event))

    __call__ = update

    async def update_async(self, event: Event, **kwargs: Any) -> None:
        self.update(event)


def update(index: Index, event: Event, **kwargs: Any) -> None:
    index.update(event)


KINDS: dict[str, Callable[[Index], Any]] = {
    "method": lambda index: index.update,
    "async method": lambda index: index.update_async,
    "callable": lambda index: index,
    "partial": lambda index: partial(update, index),
}


@contextmanager
def connected(*receivers: tuple[Any, str | None], weak: bool = False) -> Iterator[None]:
    """Connect receivers, each with its dispatch_uid."""
    for receiver, uid in receivers:
        post_db_insert.connect(receiver, Keeper, weak, uid)
    try:
        yield
    finally:
        for receiver, uid in receivers:
            assert post_db_insert.disconnect(receiver, Keeper, uid)


@pytest.mark.parametrize("kind", KINDS)
def test_receivers_of_one_name_are_told_apart_by_dispatch_uid(
    config: StreamConfig, kind: str
) -> None:
    first, second = Index(), Index(broken=True)
    with connected((KINDS[kind](first), "first"), (KINDS[kind](second), "second")):
        park(config, "Ada")
        first.names.clear()
        second.broken = False
        assert replay() == ("1 delivered, 0 failed again\n", "")
    assert (first.names, second.names) == ([], ["Ada"])
    assert not ParkedEvent.objects.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_receivers_of_one_name_without_dispatch_uid_are_not_replayed(
    config: StreamConfig, kind: str
) -> None:
    first, second = Index(), Index(broken=True)
    receivers = KINDS[kind](first), KINDS[kind](second)
    with connected(*((receiver, None) for receiver in receivers)):
        park(config, "Ada")
        first.names.clear()
        second.broken = False
        printed, error = replay()
    parked = ParkedEvent.objects.get()
    assert f"have the name {parked.receiver}, so the one that failed" in printed
    assert f"walex_replay --id {parked.event_id} --dispatch-uid UID" in printed
    assert error == FAILED
    # The error that the receiver raised is still there.
    assert (parked.error, parked.attempts) == ("ValueError: broken", 1)

    # Also if only the wrong one is left.
    with connected((receivers[0], None)):
        assert replay()[1] == FAILED
    assert (first.names, second.names) == ([], [])

    with connected((receivers[0], "first"), (receivers[1], "second")):
        assert replay("--dispatch-uid", "third")[1] == FAILED
        assert replay("--dispatch-uid", "second")[1] == ""
    assert (first.names, second.names) == ([], ["Ada"])


def test_a_receiver_with_another_dispatch_uid_is_not_called(
    config: StreamConfig,
) -> None:
    first, second = Index(broken=True), Index()
    with connected((first.update, "first")):
        park(config, "Ada")
    with connected((second.update, "second")):
        printed, error = replay()
    assert "is not connected to post_db_insert with dispatch_uid 'first'" in printed
    assert error == FAILED
    assert second.names == []


def test_a_dispatch_uid_that_was_added_later_has_to_be_confirmed(
    config: StreamConfig,
) -> None:
    index = Index(broken=True)
    with connected((index.update, None)):
        park(config, "Ada")
    index.broken = False
    with connected((index.update, "later")):
        printed, error = replay()
        assert error == FAILED
        _, _, command = printed.partition("python manage.py walex_replay ")
        options = command.partition("\n")[0].split()
        assert replay(*options) == ("1 delivered, 0 failed again\n", "")
    assert index.names == ["Ada"]


def test_one_receiver_that_is_connected_twice_is_not_ambiguous(
    config: StreamConfig,
) -> None:
    index = Index(broken=True)
    with connected((index.update, None)):
        post_db_insert.connect(index.update, Keeper, stream="default")
        try:
            with Listening(replace(config, max_retries=0)) as listening:
                Keeper.objects.create(name="Ada")
                listening.wait_for(1)
            index.broken = False
            assert replay() == ("2 delivered, 0 failed again\n", "")
        finally:
            post_db_insert.disconnect(index.update, Keeper, stream="default")
    assert index.names == ["Ada", "Ada"]


@pytest.mark.usefixtures("own_handlers")
def test_functions_of_one_name_are_not_replayed(config: StreamConfig) -> None:
    first, second = Index(), Index(broken=True)
    functions = [partial(update, first), partial(update, second)]

    @on_insert(Keeper, functions=functions)
    def handle(events: list[Event]) -> None:
        """Leave it to the functions."""

    with Listening(replace(config, max_retries=0)) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        eventually(ParkedEvent.objects.exists)
    first.names.clear()
    second.broken = False
    printed, error = replay()
    assert "Several functions have the name" in printed
    assert error == FAILED
    assert ParkedEvent.objects.get().error == "ValueError: broken"
    assert (first.names, second.names) == ([], [])


class Durable:
    """A receiver that commits on its own, and fails at first."""

    def __init__(self) -> None:
        self.is_broken = True

    def __call__(self, event: Event, **kwargs: Any) -> None:
        with transaction.atomic(durable=True):
            Mascot.objects.create(name=name_of(event))
        if self.is_broken:
            raise ValueError("broken after the commit")


def test_a_receiver_with_a_durable_block_is_replayed(config: StreamConfig) -> None:
    receiver = Durable()
    with connected((receiver, None)):
        park(config, "Ada")
        assert "ValueError: broken after the commit" in replay()[0]
        assert Mascot.objects.count() == 2
        receiver.is_broken = False
        assert replay() == ("1 delivered, 0 failed again\n", "")
    assert Mascot.objects.count() == 3
    assert not ParkedEvent.objects.exists()


@pytest.mark.usefixtures("own_handlers")
def test_a_function_is_replayed_outside_of_the_transaction(
    config: StreamConfig, settings: Any
) -> None:
    receiver = Durable()

    def function(event: Event) -> None:
        receiver(event)

    @on_insert(Keeper, functions=[function])
    def handle(events: list[Event]) -> None:
        """Leave it to the function."""

    with Listening(replace(config, max_retries=0)) as listening:
        Keeper.objects.create(name="Ada")
        listening.wait_for(1)
        eventually(ParkedEvent.objects.exists)
    make_atomic(settings)
    receiver.is_broken = False
    assert replay() == ("1 delivered, 0 failed again\n", "")


def test_the_admin_replays_durable_blocks_with_atomic_requests(
    config: StreamConfig, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Durable()
    with connected((receiver, None)):
        park(config, "Ada")
        receiver.is_broken = False
        monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
        admin_client.post(
            "/admin/walex_django/parkedevent/",
            {
                "action": "replay_selected",
                "confirmed": "yes",
                ACTION_CHECKBOX_NAME: [ParkedEvent.objects.get().pk],
            },
        )
    assert not ParkedEvent.objects.exists()
    assert Mascot.objects.count() == 2


def test_two_replays_do_not_repeat_the_same_call(config: StreamConfig) -> None:
    entered, left = Flag(), Flag()
    calls: list[str] = []
    broken = [True]

    def receiver(event: Event, **kwargs: Any) -> None:
        if broken[0]:
            raise ValueError
        calls.append(name_of(event))
        entered.set()
        assert left.wait(TIMEOUT)

    with connected((receiver, None)):
        park(config, "Ada")
        broken[0] = False
        results: list[ReplayResult] = []

        def replay_slowly() -> None:
            try:
                results.extend(replay_events(ParkedEvent.objects.all()))
            finally:
                connections.close_all()

        thread = Thread(target=replay_slowly)
        thread.start()
        assert entered.wait(TIMEOUT)
        assert list(replay_events(ParkedEvent.objects.all())) == []
        # Nor inside a transaction of the caller.
        with transaction.atomic():
            assert list(replay_events(ParkedEvent.objects.all())) == []
        left.set()
        thread.join(TIMEOUT)
    assert [result.error for result in results] == [None]
    assert calls == ["Ada"]
    assert not ParkedEvent.objects.exists()


def test_a_replay_inside_a_transaction_is_part_of_it(config: StreamConfig) -> None:
    index = Index(broken=True)
    with connected((index.update, None)):
        park(config, "Ada")
        index.broken = False
        with transaction.atomic():
            (result,) = replay_events(ParkedEvent.objects.all())
            assert result.error is None
            assert not ParkedEvent.objects.exists()
            transaction.set_rollback(True)
    assert ParkedEvent.objects.count() == 1


def test_a_replay_leaves_no_session_behind(
    config: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    index = Index(broken=True)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
    with connected((index.update, None)):
        park(config, "Ada")
        before = sql.execute(sessions.encode()).fetchone()
        replay()
        index.broken = False
        replay()
    eventually(lambda: sql.execute(sessions.encode()).fetchone() == before)


def test_a_call_is_repeated_if_its_end_was_not_recorded(
    config: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    broken, killed = [True], [False]
    calls: list[str] = []

    def receiver(event: Event, **kwargs: Any) -> None:
        if broken[0]:
            raise ValueError
        calls.append(name_of(event))
        if not killed[0]:
            # The server sees the same if the process is killed.
            killed[0] = True
            sql.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE state = 'idle in transaction'"
                " AND datname = current_database()"
            )

    with connected((receiver, None)):
        park(config, "Ada")
        broken[0] = False
        assert replay()[1] != ""
        assert ParkedEvent.objects.count() == 1
        assert replay() == ("1 delivered, 0 failed again\n", "")
    assert calls == ["Ada", "Ada"]


def test_no_timeout_of_the_role_ends_a_claim(
    config: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    names = ["idle_in_transaction_session_timeout"]
    if sql.info.server_version >= 170000:
        names.append("transaction_timeout")
    broken = [True]

    def receiver(event: Event, **kwargs: Any) -> None:
        if broken[0]:
            raise ValueError
        with connection.cursor() as cursor:
            cursor.execute("SET transaction_timeout = 0" if len(names) == 2 else ";")
            cursor.execute("SELECT pg_sleep(0.5)")

    with connected((receiver, None)):
        park(config, "Ada")
        broken[0] = False
        for name in names:
            sql.execute(f"ALTER ROLE CURRENT_USER SET {name} = '200ms'".encode())
        connection.close()
        try:
            assert replay() == ("1 delivered, 0 failed again\n", "")
        finally:
            for name in names:
                sql.execute(f"ALTER ROLE CURRENT_USER RESET {name}".encode())
            connection.close()
    assert not ParkedEvent.objects.exists()
