"""Instances have what the ORM loads, of every kind of field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, connections
from django.db.models import Model
from django.test.utils import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from walex_django import Event, ExactText
from walex_django.events import json_form

from .field_models import Country, Embassy, Everything, Generated, Ticket
from .hearing import Hearing, hearing
from .rows import everything
from .sameness import assert_same, assert_survives, loaded

# No other app has tables here: nothing else needs to be emptied after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

MODELS: list[type[Model]] = [Everything, Generated, Country, Embassy, Ticket]
ZONES = [
    # USE_TZ, TIME_ZONE, and TIME_ZONE of the database
    (True, "Europe/Berlin", None),
    (True, "UTC", "America/St_Johns"),
    (False, "Europe/Berlin", None),
    (False, "UTC", None),
]


@pytest.fixture(scope="module", params=ZONES, ids=str)
def heard(request: pytest.FixtureRequest, database: None) -> Iterator[Hearing]:
    """The tables of all models, under settings of time zones."""
    use_tz, zone, of_database = request.param
    tables = ", ".join(f'"{model._meta.db_table}"' for model in MODELS)
    with (
        override_settings(USE_TZ=use_tz, TIME_ZONE=zone),
        zone_of_database(of_database),
    ):
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS citext")
        connection.close()  # the next one learns the extension's types
        # A process has one set of settings, and what it makes of events keeps to them.
        json_form._table.cache_clear()
        for model in MODELS:
            with connection.schema_editor() as editor:
                editor.create_model(model)
        with hearing(
            f"TABLE {tables}",
            "exact.*",
            before="SELECT",
            after=f"DROP TABLE {tables}",
        ) as heard:
            for table in (Everything, Country):
                heard.connection.execute(
                    f"ALTER TABLE {table._meta.db_table} REPLICA IDENTITY FULL".encode()
                )
            yield heard


@contextmanager
def zone_of_database(zone: str | None) -> Iterator[None]:
    """Set TIME_ZONE in DATABASES, for connections that are made from now on."""
    wrapper = connections["default"]
    before = wrapper.settings_dict["TIME_ZONE"]

    def set_zone(zone: str | None) -> None:
        wrapper.close()
        wrapper.settings_dict["TIME_ZONE"] = zone
        for name in ("timezone", "timezone_name"):
            vars(wrapper).pop(name, None)

    set_zone(zone)
    try:
        yield
    finally:
        set_zone(before)


def orm_values(model: type[Model], events: list[Event]) -> list[dict[str, Any]]:
    """Return what the ORM loads of inserted rows, `ExactText` where it cannot."""
    ids = [event.new_record["id"] for event in events if event.new_record]
    try:
        return [
            loaded(instance) or {}
            for instance in model._default_manager.filter(pk__in=ids).order_by("pk")
        ]
    except Exception:  # noqa: BLE001 - converters raise whatever their parsers do
        names = [field.attname for field in model._meta.concrete_fields]
        return [{name: _orm_value(model, id, name) for name in names} for id in ids]


def _orm_value(model: type[Model], id: int, name: str) -> Any:
    rows = model._default_manager.filter(pk=id)
    try:
        return vars(rows.only(name).get())[name]
    except Exception:  # noqa: BLE001 - as above
        column = model._meta.get_field(name).column  # type: ignore[union-attr]
        quoted = connection.ops.quote_name(str(column)).replace("%", "%%")
        with connection.cursor() as cursor:
            cursor.execute("SET timezone = 'UTC'")
            cursor.execute(
                f"SELECT {quoted}::text FROM {model._meta.db_table} WHERE id = %s", [id]
            )
            (text,) = cursor.fetchone()
        connection.close()
        return ExactText(text)


@settings(
    max_examples=examples(8),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_an_instance_has_what_the_orm_loads(
    heard: Hearing, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(everything(), min_size=1, max_size=3))
    Everything.objects.bulk_create(rows)
    events = heard.events(len(rows))
    expected = orm_values(Everything, events)
    for event, values in zip(events, expected, strict=True):
        assert_same(loaded(event.instance), values)
        assert_survives(event)

    # What an UPDATE tells of rows, old and new, is of the same kind.
    Everything.objects.filter(pk__in=[row.pk for row in rows]).update(
        big=1, search="a b"
    )
    for event, values in zip(heard.events(len(rows)), expected, strict=True):
        assert_same(loaded(event.old_instance), values)
        assert event.changes is not None
        assert event.changes.keys() <= {"big", "search"}
        assert_same(loaded(event.instance), {**values, "big": 1, "search": "'a' 'b'"})
        assert_survives(event)


HUGE = "1" + "0" * 5000
UNFIT = {
    "decimal": "NaN",
    "float": "-Infinity",
    "date": "infinity",
    "time": "24:00:00",
    "moment": "0044-03-15 12:00:00+00 BC",
    "duration": "3000000 years",
    "json": f"[{HUGE}]",
    "exact_json": f'{{"a": {HUGE}}}',
    "texts": "[2:3]={a,NULL}",
    "moments": '{infinity,"2020-01-01 00:00:00+00"}',
    "reversed_texts": "{{abc,d},{NULL,e}}",
    "jsons": '{"1","[' + HUGE + ']"}',
    "date_range": "[2020-01-01,infinity)",
    "decimal_range": "[0.10,NaN)",
    "moment_range": "[-infinity,infinity]",
    "ranges": '{"[2020-01-01,infinity)"}',
    "address": "10.0.0.1/8",
}


def test_what_python_cannot_hold_is_exact_text_in_an_instance(heard: Hearing) -> None:
    columns, values = ", ".join(UNFIT), ", ".join(["%s"] * len(UNFIT))
    rows: list[list[str | None]] = [
        list(UNFIT.values()),
        *(
            [text if name == each else None for name, text in UNFIT.items()]
            for each in UNFIT
        ),
    ]
    for parameters in rows:
        events = heard.execute(
            f"INSERT INTO exact_everything ({columns}) VALUES ({values})", parameters
        )
        (expected,) = orm_values(Everything, events)
        (event,) = events
        assert_same(loaded(event.instance), expected)
        assert_survives(event)


def test_json_deeper_than_python_may_go_loses_no_other_field(heard: Hearing) -> None:
    deep = "[" * 5000 + "]" * 5000
    (event,) = heard.execute(
        "INSERT INTO exact_everything (json, exact_json, jsons, text)"
        " VALUES (%s, %s, %s, 'here')",
        [deep, deep, [deep]],
    )
    values = loaded(event.instance)
    assert values is not None
    assert values["text"] == "here"
    for name in ("json", "exact_json", "jsons"):
        value = values[name]
        shown = value if isinstance(value, ExactText) else json.dumps(value)
        assert shown.strip("{}[]") == ""
        assert shown.count("[") in {5000, 5001}


def test_a_generated_column_does_not_come_and_can_be_read(heard: Hearing) -> None:
    Generated.objects.create(text="zoo")

    (event,) = heard.events(1)
    assert loaded(event.instance) == {"id": 1, "text": "zoo"}
    assert_survives(event)
    instance: Any = event.instance
    assert instance.upper == "ZOO"


def test_relations_by_other_columns_are_followed(heard: Hearing) -> None:
    fr, de = Country.objects.create(code="fr"), Country.objects.create(code="de")
    Embassy.objects.create(host=fr, sender=de, other=de)
    Embassy.objects.update(other=None)

    *_, inserted, updated = heard.events(4)
    instance: Any = inserted.instance
    assert loaded(instance) == {
        "host_id": fr.pk,
        "sender_id": "de",
        "other_id": de.number,
    }
    assert (instance.host, instance.sender, instance.other) == (fr, de, de)
    assert_same(loaded(updated.instance), loaded(Embassy.objects.get()))
    for event in (inserted, updated):
        assert_survives(event)


def test_a_composite_key_is_the_instances_pk(heard: Hearing) -> None:
    ticket = Ticket.objects.create(row="A", number=1)
    Ticket.objects.update(taken=True)
    Ticket.objects.update(number=2)
    Ticket.objects.all().delete()

    inserted, updated, moved, deleted = heard.events(4)
    assert inserted.instance == ticket
    assert [
        event.instance.pk for event in (updated, moved, deleted) if event.instance
    ] == [
        ("A", 1),
        ("A", 2),
        ("A", 2),
    ]
    assert loaded(moved.old_instance) == {"row": "A", "number": 1}
    assert loaded(deleted.instance) == {"row": "A", "number": 2}
    for event in (inserted, updated, moved, deleted):
        assert_survives(event)
