"""With ATOMIC an idle connection that the server closed fails no receiver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, connections

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.models import ParkedEvent
from walex_django.signals import post_db_insert, post_db_transaction

from .mascots import Sql, adopt, wait_until_adopted

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def keep_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Django keep its connections open indefinitely."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)


@pytest.mark.usefixtures("keep_connections")
@pytest.mark.parametrize("signal", [post_db_insert, post_db_transaction])
def test_next_transaction_is_processed_once(
    atomic: StreamConfig, connect: Connect, sql: Sql, signal: Any
) -> None:
    backends: list[int] = []

    def look(**kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            backends.append(cursor.fetchone()[0])

    connect(signal, look)
    connect(post_db_insert, adopt)
    with Listening(replace(atomic, max_retries=0)):
        Keeper.objects.create(name="Ada")
        wait_until_adopted(sql, "Ada")
        eventually(lambda: _is_idle(sql, backends[0]), "the end of the transaction")
        ended = sql.execute("SELECT pg_terminate_backend(%s, 5000)", [backends[0]])
        assert ended.fetchone() == (True,)

        Keeper.objects.create(name="Bob")
        wait_until_adopted(sql, "Ada", "Bob")
        Keeper.objects.create(name="Eve")
        wait_until_adopted(sql, "Ada", "Bob", "Eve")
    assert not ParkedEvent.objects.exists()
    # The test proves something only if the connection was kept.
    assert backends[0] not in backends[1:]
    assert backends[1] == backends[2]


def _is_idle(sql: Sql, backend: int) -> bool:
    found = sql.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [backend])
    return found.fetchone() == ("idle",)
