"""Instances have the values that the ORM loads, for every kind of field."""

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
from .recorder import Recorder, recording
from .rows import everything
from .sameness import assert_same, assert_survives, loaded

# Flush only the tables of this app after each test.
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
def recorder(request: pytest.FixtureRequest, database: None) -> Iterator[Recorder]:
    """The tables of all models, with several time zone settings."""
    use_tz, zone, of_database = request.param
    tables = ", ".join(f'"{model._meta.db_table}"' for model in MODELS)
    with (
        override_settings(USE_TZ=use_tz, TIME_ZONE=zone),
        zone_of_database(of_database),
    ):
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS citext")
        connection.close()  # a new one loads the extension's types
        # The cache assumes that settings do not change.
        json_form._table.cache_clear()
        for model in MODELS:
            with connection.schema_editor() as editor:
                editor.create_model(model)
        with recording(
            f"TABLE {tables}",
            "exact.*",
            before="SELECT",
            after=f"DROP TABLE {tables}",
        ) as recorder:
            for table in (Everything, Country):
                recorder.connection.execute(
                    f"ALTER TABLE {table._meta.db_table} REPLICA IDENTITY FULL".encode()
                )
            yield recorder


@contextmanager
def zone_of_database(zone: str | None) -> Iterator[None]:
    """Set TIME_ZONE in DATABASES for new connections."""
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
    """Return inserted rows as the ORM loads them, `ExactText` where it can't."""
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
def test_instance_has_the_values_that_the_orm_loads(
    recorder: Recorder, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(everything(), min_size=1, max_size=3))
    Everything.objects.bulk_create(rows)
    events = recorder.events(len(rows))
    expected = orm_values(Everything, events)
    for event, values in zip(events, expected, strict=True):
        assert_same(loaded(event.instance), values)
        assert_survives(event)

    # The old and new rows of an UPDATE have the same values.
    Everything.objects.filter(pk__in=[row.pk for row in rows]).update(
        big=1, search="a b"
    )
    for event, values in zip(recorder.events(len(rows)), expected, strict=True):
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


def test_instance_has_exact_text_for_values_that_python_cannot_represent(
    recorder: Recorder,
) -> None:
    columns, values = ", ".join(UNFIT), ", ".join(["%s"] * len(UNFIT))
    rows: list[list[str | None]] = [
        list(UNFIT.values()),
        *(
            [text if name == each else None for name, text in UNFIT.items()]
            for each in UNFIT
        ),
    ]
    for parameters in rows:
        events = recorder.execute(
            f"INSERT INTO exact_everything ({columns}) VALUES ({values})", parameters
        )
        (expected,) = orm_values(Everything, events)
        (event,) = events
        assert_same(loaded(event.instance), expected)
        assert_survives(event)


def test_json_nested_too_deeply_does_not_affect_other_fields(
    recorder: Recorder,
) -> None:
    deep = "[" * 5000 + "]" * 5000
    (event,) = recorder.execute(
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


def test_unpublished_generated_column_is_loaded_on_access(recorder: Recorder) -> None:
    Generated.objects.create(text="zoo")

    (event,) = recorder.events(1)
    assert loaded(event.instance) == {"id": 1, "text": "zoo"}
    assert_survives(event)
    instance: Any = event.instance
    assert instance.upper == "ZOO"


def test_relations_to_unique_columns_can_be_followed(recorder: Recorder) -> None:
    fr, de = Country.objects.create(code="fr"), Country.objects.create(code="de")
    Embassy.objects.create(host=fr, sender=de, other=de)
    Embassy.objects.update(other=None)

    *_, inserted, updated = recorder.events(4)
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


def test_composite_key_is_the_pk_of_the_instance(recorder: Recorder) -> None:
    ticket = Ticket.objects.create(row="A", number=1)
    Ticket.objects.update(taken=True)
    Ticket.objects.update(number=2)
    Ticket.objects.all().delete()

    inserted, updated, moved, deleted = recorder.events(4)
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
