"""Rows become the instances that the ORM would have loaded."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Model

from tests.listening import Listening
from tests.zoo.models import (
    Animal,
    AuditLog,
    Aviary,
    Building,
    Keeper,
    Mascot,
    TameAnimal,
    Temperature,
    Visit,
)
from walex_django import Event, ExactText
from walex_django.conf.stream import StreamConfig

pytestmark = pytest.mark.django_db(transaction=True)

LEO: dict[str, Any] = {
    "name": "Leo «the lion» \\ 'quoted'",
    "born_at": datetime(2019, 3, 31, 1, 30, 0, 123456, tzinfo=UTC),
    "fed_on": date(2026, 11, 22),
    "weight": Decimal("190.500"),
    "speed": 0.1 + 0.2,
    "tame": True,
    "tags": ["big", "with, comma", 'with "quotes"', ""],
    "habits": {"sleeps": 20.5, "eats": ["meat", None], "nested": {"ü": True}},
    "chip": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "photo": bytes(range(256)),
    "gestation": timedelta(days=110, hours=3, microseconds=7),
    "asleep": DateTimeTZRange(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), "[)"
    ),
    "names_abroad": {"fr": "lion", "de": "Löwe", "xx": None},
    "comfort": Temperature(25),
    "story": "",
}


# Too long for its row and hardly compressible: stored out of line (TOAST).
LONG = "".join(hashlib.sha256(bytes([i])).hexdigest() for i in range(200))


def values(instance: Model | None) -> dict[str, Any]:
    """Return the loaded values of an instance, by attribute."""
    assert instance is not None
    fields = instance._meta.concrete_fields
    return {f.attname: instance.__dict__.get(f.attname, "deferred") for f in fields}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC"])
@pytest.mark.parametrize("use_tz", [True, False])
def test_instance_equals_the_one_that_the_orm_loads(
    config: StreamConfig, settings: Any, zone: str, use_tz: bool
) -> None:
    settings.TIME_ZONE, settings.USE_TZ = zone, use_tz
    leo = dict(LEO)
    if not use_tz:
        leo["born_at"] = leo["born_at"].replace(tzinfo=None)
        leo["asleep"] = None
    with Listening(config) as listening:
        Animal.objects.create(**leo)
        Animal.objects.create(name="Nobody")

        events = listening.wait_for(2)
        instances = [event.instance for event in events]
    for instance, loaded in zip(instances, Animal.objects.order_by("pk"), strict=True):
        assert values(instance) == values(loaded)
        assert {k: type(v) for k, v in values(instance).items()} == {
            k: type(v) for k, v in values(loaded).items()
        }
        assert instance is not None
        assert instance._state.db == "default"
        assert not instance._state.adding
    assert isinstance(instances[0], Animal)
    assert instances[0].born_at is not None
    assert (instances[0].born_at.tzinfo is UTC) is use_tz


def test_instance_can_be_saved_and_related(listening: Listening) -> None:
    Keeper.objects.create(name="Ada")
    (event,) = listening.wait_for(1)

    keeper: Any = event.instance
    keeper.name = "Grace"
    keeper.save(force_update=True)
    keeper.animals.create(name="Leo")

    assert Keeper.objects.get().name == "Grace"
    assert Animal.objects.get(keepers=keeper).name == "Leo"


def test_columns_match_by_name_in_any_order(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    sql.execute(
        'INSERT INTO zoo_visit (visitor, "price paid", extra)'
        " VALUES ('Ada', 12, 'paid in coins')"
    )

    (event,) = listening.wait_for(1)
    visit = event.instance
    assert isinstance(visit, Visit)
    assert (visit.visitor, visit.paid) == ("Ada", 12)
    # A field without its column is deferred; an unknown column is in the record.
    assert visit.get_deferred_fields() == {"missing"}
    assert event.new_record is not None
    assert event.new_record["extra"] == "paid in coins"
    assert list(event.new_record) == ["extra", "price paid", "visitor", "id"]


def test_table_outside_search_path_has_its_model(listening: Listening) -> None:
    AuditLog.objects.create(message="hello")

    (event,) = listening.wait_for(1)
    assert event.model is AuditLog
    assert event.instance == AuditLog.objects.get()
    assert (event.source.schema, event.source.table) == ("legacy", "audit_log")
    AuditLog.objects.all().delete()


def test_table_without_model_has_no_sender(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("INSERT INTO legacy.nobody_knows (message) VALUES ('hello')")

    (event,) = listening.wait_for(1)
    assert listening.senders == [None]
    assert event.model is None
    assert event.instance is None
    assert event.new_record is not None
    assert event.new_record["message"] == "hello"


def test_proxy_is_its_concrete_model(listening: Listening) -> None:
    TameAnimal.objects.create(name="Rex")

    (event,) = listening.wait_for(1)
    assert event.model is Animal
    assert type(event.instance) is Animal


def test_each_table_of_inheriting_model_has_its_own_event(
    listening: Listening,
) -> None:
    aviary = Aviary.objects.create(name="Dome", height=12)

    parent, child = listening.wait_for(2)
    assert (parent.model, child.model) == (Building, Aviary)
    assert parent.instance == aviary.building_ptr  # type: ignore[attr-defined]
    instance = child.instance
    assert isinstance(instance, Aviary)
    assert instance.height == 12
    assert instance.get_deferred_fields() == {"id", "name"}
    assert instance.name == "Dome"


def test_many_to_many_table_has_its_through_model(listening: Listening) -> None:
    through: Any = Animal.keepers.through
    keeper = Keeper.objects.create(name="Ada")
    animal = Animal.objects.create(name="Leo")
    animal.keepers.add(keeper)

    event = listening.wait_for(3)[2]
    assert event.model == through
    assert event.instance == through.objects.get()


def test_table_of_swapped_model_belongs_to_its_replacement(
    listening: Listening,
) -> None:
    Mascot.objects.create(name="Pinguin")

    (event,) = listening.wait_for(1)
    assert event.model is Mascot


def test_value_that_python_cannot_represent_arrives_as_text(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    sql.execute(
        "INSERT INTO zoo_animal (name, fed_on, born_at, weight, speed, tame, tags,"
        " story) VALUES ('Leo', 'infinity', '0044-03-15 12:00+00 BC', 'NaN',"
        " '-Infinity', true, '{}', '')"
    )

    (event,) = listening.wait_for(1)
    record, instance = event.new_record, event.instance
    assert record is not None
    assert record["fed_on"] == "infinity"
    assert isinstance(record["fed_on"], ExactText)
    assert record["born_at"] == "0044-03-15 12:00:00+00 BC"
    assert record["weight"].is_nan()
    assert record["speed"] == float("-inf")
    assert isinstance(instance, Animal)
    assert instance.name == "Leo"
    assert type(instance.__dict__["fed_on"]) is ExactText
    assert instance.__dict__["fed_on"] == "infinity"


def test_unchanged_toasted_value_is_deferred_and_listed(
    listening: Listening,
) -> None:
    story = LONG
    animal = Animal.objects.create(name="Leo", story=story)
    Animal.objects.filter(pk=animal.pk).update(name="Lea")

    _, event = listening.wait_for(2)
    assert event.unchanged == ("story",)
    assert isinstance(event.instance, Animal)
    assert event.instance.get_deferred_fields() == {"story"}
    assert event.instance.name == "Lea"
    assert event.instance.story == story


def test_unchanged_toasted_value_is_filled_in_with_identity_full(
    listening: Listening, sql: psycopg.Connection[Any]
) -> None:
    story = LONG
    sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY FULL")
    try:
        animal = Animal.objects.create(name="Leo", story=story)
        Animal.objects.filter(pk=animal.pk).update(name="Lea")
        _, event = listening.wait_for(2)
    finally:
        sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY DEFAULT")
    assert event.unchanged == ()
    assert event.changes is not None
    assert set(event.changes) == {"name"}
    assert event.new_record is not None
    assert event.new_record["story"] == story


def test_server_settings_do_not_affect_values(
    config: StreamConfig, sql: psycopg.Connection[Any]
) -> None:
    odd = {
        "datestyle": "SQL, DMY",
        "timezone": "Asia/Tokyo",
        "intervalstyle": "iso_8601",
        "bytea_output": "escape",
        "extra_float_digits": "-3",
        "quote_all_identifiers": "on",
    }
    database = sql.info.dbname
    for name, value in odd.items():
        sql.execute(f"ALTER DATABASE \"{database}\" SET {name} = '{value}'")
    try:
        with Listening(config) as listening:
            Animal.objects.create(**LEO)
            (event,) = listening.wait_for(1)
            record = event.new_record
    finally:
        for name in odd:
            sql.execute(f'ALTER DATABASE "{database}" RESET {name}')
    assert record is not None
    for name in ("born_at", "gestation", "photo", "speed"):
        assert record[name] == LEO[name]


@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
def test_event_survives_json_round_trip(
    listening: Listening, sql: psycopg.Connection[Any], identity: str
) -> None:
    sql.execute(f"ALTER TABLE zoo_animal REPLICA IDENTITY {identity}")
    try:
        animal = Animal.objects.create(**LEO)
        Animal.objects.update(name="Lea", habits={}, id=animal.pk + 1000)
        Animal.objects.all().delete()
        sql.execute("INSERT INTO legacy.nobody_knows (message) VALUES ('hello')")
        sql.execute("TRUNCATE zoo_visit")
        events = listening.wait_for(5)
        restored = [Event.from_dict(json.loads(event.as_json())) for event in events]
    finally:
        sql.execute("ALTER TABLE zoo_animal REPLICA IDENTITY DEFAULT")
    for event, again in zip(events, restored, strict=True):
        for name in (
            *("id", "type", "name", "source", "model", "timestamp", "lsn", "xid"),
            *("ordinal", "new_record", "old_record", "changes", "unchanged"),
            *("cascade", "restart_identity"),
        ):
            assert getattr(again, name) == getattr(event, name), name
        for name in ("instance", "old_instance"):
            if getattr(event, name) is None:
                assert getattr(again, name) is None
            else:
                assert values(getattr(again, name)) == values(getattr(event, name))


def test_dict_not_returned_by_event_is_rejected() -> None:
    with pytest.raises(ValueError, match="not a dict returned by Event"):
        Event.from_dict({"type": "insert"})
