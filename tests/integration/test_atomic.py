"""With ATOMIC, receivers' work and the checkpoint share one database transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import DatabaseError, connection, transaction

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Animal, Keeper, Mascot
from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.models import ParkedEvent
from walex_django.signals import post_db_insert, post_db_transaction

from .mascots import (
    Gate,
    Moody,
    Sql,
    acknowledged,
    adopt,
    adopted,
    name_of,
    position,
    wait_until_adopted,
)

pytestmark = pytest.mark.django_db(transaction=True)


class TestOneTransaction:
    """Receivers' work and the checkpoint become visible together."""

    def test_work_and_checkpoint_are_committed_together(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        gate = Gate()
        connect(post_db_insert, adopt)
        connect(post_db_transaction, gate)
        with Listening(atomic) as listening:
            before = position(sql)
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            gate.wait()
            assert (adopted(sql), position(sql)) == ([], before)

            gate.open()
            wait_until_adopted(sql, "Ada", "Bob")
            assert position(sql) == listening.events[-1].lsn

    def test_chunks_of_long_transaction_commit_together(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        gate = Gate()

        def wait_at_last_chunk(last: bool, **kwargs: Any) -> None:
            if last:
                gate()

        connect(post_db_insert, adopt)
        connect(post_db_transaction, wait_at_last_chunk)
        with Listening(replace(atomic, max_batch=2)) as listening:
            names = [f"Ada {number}" for number in range(5)]
            Keeper.objects.bulk_create(Keeper(name=name) for name in names)
            gate.wait()
            assert len(listening.events) == 5
            assert adopted(sql) == []

            gate.open()
            wait_until_adopted(sql, *names)

    def test_async_receivers_join_the_transaction(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        gate = Gate()

        async def adopt_slowly(event: Event, **kwargs: Any) -> None:
            await Mascot.objects.acreate(name=name_of(event))
            if name_of(event) == "bad":
                raise ValueError

        connect(post_db_insert, adopt_slowly)
        connect(post_db_transaction, gate)
        with Listening(atomic):
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="bad")])
            gate.wait()
            assert adopted(sql) == []
            gate.open()
            wait_until_adopted(sql, "Ada")
        assert ParkedEvent.objects.count() == 1

    def test_undelivered_changes_do_not_update_checkpoint(
        self, atomic: StreamConfig, sql: Sql
    ) -> None:
        def row() -> Any:
            return sql.execute(
                "SELECT xmin, ctid, updated_at FROM walex_django_checkpoint"
            ).fetchone()

        with Listening(atomic) as listening:
            before = row()
            Animal.objects.create(name="Leo")
            ((end,),) = sql.execute("SELECT pg_current_wal_flush_lsn() - '0/0'")
            eventually(lambda: acknowledged(sql, end - 1), "the acknowledgement")
            assert row() == before
        assert listening.events == []


class TestFailures:
    """A failed receiver leaves nothing behind but the record of its failure."""

    def test_retried_receiver_writes_once(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        moody = Moody(times=1)
        connect(post_db_insert, moody)
        connect(post_db_insert, adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "moody Ada", "Ada")
        assert moody.calls == 2
        assert not ParkedEvent.objects.exists()

    @pytest.mark.parametrize("on_error", ["park", "skip"])
    def test_work_of_other_receivers_is_committed(
        self, atomic: StreamConfig, connect: Connect, sql: Sql, on_error: Any
    ) -> None:
        gate = Gate()
        connect(post_db_insert, Moody(times=2))
        connect(post_db_insert, adopt)
        connect(post_db_transaction, gate)
        with Listening(replace(atomic, on_error=on_error)) as listening:
            Keeper.objects.create(name="Ada")
            gate.wait()
            # The parked event is part of the same transaction.
            assert not ParkedEvent.objects.exists()
            gate.open()
            wait_until_adopted(sql, "Ada")
            assert position(sql) == listening.events[-1].lsn
        assert ParkedEvent.objects.count() == (on_error == "park")

    def test_on_error_stop_rolls_everything_back(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        moody = Moody(times=2)
        connect(post_db_insert, adopt)
        connect(post_db_insert, moody)
        with Listening(replace(atomic, on_error="stop")) as listening:
            before = position(sql)
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])
            assert isinstance(listening.wait_for_end(), ReceiverFailed)
        assert (adopted(sql), position(sql)) == ([], before)

        with Listening(replace(atomic, on_error="stop")) as resumed:
            wait_until_adopted(sql, "Ada", "moody Ada", "Bob", "moody Bob")
        assert len(resumed.events) == 2

    def test_stopping_before_retry_rolls_everything_back(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        moody = Moody(times=1)
        connect(post_db_insert, adopt)
        connect(post_db_insert, moody)
        with Listening(replace(atomic, retry_backoff=3600)) as listening:
            Keeper.objects.create(name="Ada")
            eventually(lambda: moody.calls == 1, "the first call")
            listening.stop()
            assert listening.error is None
        assert adopted(sql) == []

        with Listening(atomic):
            wait_until_adopted(sql, "Ada", "moody Ada")

    def test_deferred_constraint_fails_the_receiver_that_broke_it(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        animal = Animal.objects.create(name="Leo")

        def assign(event: Event, **kwargs: Any) -> None:
            assert event.instance
            keeper_id = event.instance.pk if name_of(event) == "Ada" else -1
            Animal.keepers.through.objects.create(
                animal_id=animal.pk, keeper_id=keeper_id
            )

        connect(post_db_insert, assign)
        connect(post_db_insert, adopt)
        with Listening(atomic):
            Keeper.objects.bulk_create([Keeper(name="Bob"), Keeper(name="Ada")])
            wait_until_adopted(sql, "Bob", "Ada")
        parked = ParkedEvent.objects.get()
        assert parked.receiver.endswith(".assign")
        assert parked.error.startswith("django.db.utils.IntegrityError: ")
        assert animal.keepers.count() == 1

    @pytest.mark.parametrize("way", ["SQL", "ORM"])
    def test_database_error_cannot_be_swallowed(
        self, atomic: StreamConfig, connect: Connect, sql: Sql, way: str
    ) -> None:
        Group.objects.create(name="taken")

        def swallow(event: Event, **kwargs: Any) -> None:
            Mascot.objects.create(name="lost")
            try:
                if way == "ORM":
                    Group.objects.create(name="taken")
                else:
                    connection.cursor().execute("SELECT 1 / 0")
            except DatabaseError:
                pass

        connect(post_db_insert, swallow)
        connect(post_db_insert, adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "Ada")
        assert ParkedEvent.objects.get().receiver.endswith(".swallow")

    def test_database_error_can_be_swallowed_in_savepoint(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        Group.objects.create(name="taken")

        def swallow(event: Event, **kwargs: Any) -> None:
            try:
                with transaction.atomic():
                    Group.objects.create(name="taken")
            except DatabaseError:
                Mascot.objects.create(name="instead")

        connect(post_db_insert, swallow)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            wait_until_adopted(sql, "instead")
        assert not ParkedEvent.objects.exists()

    def test_receiver_that_closes_connection_is_parked(
        self, atomic: StreamConfig, connect: Connect, sql: Sql
    ) -> None:
        calls: list[None] = []

        def close(**kwargs: Any) -> None:
            calls.append(None)
            connection.close()

        connect(post_db_insert, close)
        connect(post_db_insert, adopt)
        with Listening(atomic):
            Keeper.objects.create(name="Ada")
            eventually(lambda: adopted(sql) == ["Ada"] or len(calls) > 4)
        # A receiver that always fails must not hold up the others.
        assert ParkedEvent.objects.get().receiver.endswith(".close")
