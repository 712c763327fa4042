"""Checks find code that needs missing old rows, and their hints provide the rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import psycopg
import pytest
from django.db.models import Model

from tests.listening import Connect
from tests.zoo.models import Keeper
from walex_django import Event, on_event, on_update
from walex_django.conf.stream import StreamConfig
from walex_django.diagnosis.old_rows import attributes_read
from walex_django.signals import post_db_change, post_db_delete, post_db_update

from .checking import change_stream, diagnosed, run_command_of, write_settings_of

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

ONE = ("--stream", "default")


@pytest.fixture(autouse=True)
def _restore_identity(
    durable: StreamConfig, sql: psycopg.Connection[Any]
) -> Iterator[None]:
    yield
    sql.execute("ALTER TABLE zoo_keeper REPLICA IDENTITY DEFAULT")


def follow_hint(hint: str, settings: Any) -> None:
    write_settings_of(hint, settings)
    run_command_of(hint, *ONE)


@pytest.mark.parametrize(
    ("chosen", "type_"),
    [
        ({"changed": ["name"]}, "UPDATE"),
        ({"unwatched_fields": ["id"]}, "UPDATE"),
        ({"unwatched_records": {"name": "Nobody"}}, "DELETE"),
    ],
)
def test_w036_filter_in_settings(
    chosen: dict[str, Any], type_: str, settings: Any
) -> None:
    change_stream(settings, FILTERS={"zoo.Keeper": chosen})
    found = diagnosed()["W036"]
    assert found.message.startswith("WALEX['default']['FILTERS']['zoo.Keeper']: ")
    assert f"lets every {type_} of public.zoo_keeper pass" in found.message

    follow_hint(found.hint, settings)
    assert "W036" not in diagnosed()


def test_hint_omits_identity_already_in_settings(settings: Any) -> None:
    chosen = {"zoo.Keeper": {"changed": ["name"]}}
    change_stream(settings, FILTERS=chosen, REPLICA_IDENTITY={"zoo.Keeper": "FULL"})
    found = diagnosed()
    assert (
        found["W036"].hint == found["W039"].hint == "Run: python manage.py walex_setup"
    )

    run_command_of(found["W036"].hint, *ONE)
    assert not {"W036", "W039"} & diagnosed().keys()


@pytest.mark.parametrize(
    "chosen",
    [
        {"changed": ["id"]},
        {"unwatched_fields": ["name"]},
        {"unwatched_records": {"id": 1}},
        {"where": "tests.integration.test_checks_of_old_rows.follow_hint"},
    ],
)
def test_w036_ignores_filters_that_need_no_old_row(
    chosen: dict[str, Any], settings: Any
) -> None:
    change_stream(settings, FILTERS={"zoo.Keeper": chosen})

    assert "W036" not in diagnosed()


@pytest.mark.usefixtures("own_handlers")
def test_w036_filter_on_handler(settings: Any) -> None:
    @on_update("zoo.Keeper", changed=["name"])
    def handler(events: list[Event]) -> None:
        pass

    found = diagnosed()["W036"]
    assert "test_checks_of_old_rows.py" in found.message

    follow_hint(found.hint, settings)
    assert "W036" not in diagnosed()


def reads(event: Event, **kwargs: Any) -> None:
    print(event.changes)


def test_w037_receiver_that_reads_changes(connect: Connect, settings: Any) -> None:
    connect(post_db_update, reads, sender=Keeper)
    found = diagnosed()["W037"]
    assert found.message == (
        "tests.integration.test_checks_of_old_rows.reads reads event.changes, which is"
        " None for an UPDATE of public.zoo_keeper."
    )

    follow_hint(found.hint, settings)
    assert "W037" not in diagnosed()


def test_w037_and_i038_ignore_receivers_of_deletes(connect: Connect) -> None:
    def reads_old(event: Event, **kwargs: Any) -> None:
        print(event.old_record)

    connect(post_db_delete, reads_old, sender=Keeper)

    assert not {"W037", "I038"} & diagnosed().keys()


@pytest.mark.usefixtures("own_handlers")
def test_w037_function_of_handler(settings: Any) -> None:
    @on_update("zoo.Keeper", functions=[lambda event: event.old_instance])
    def handler(events: list[Event]) -> None:
        pass

    found = diagnosed()["W037"]
    assert "<lambda> reads event.old_instance" in found.message

    follow_hint(found.hint, settings)
    assert "W037" not in diagnosed()


@pytest.mark.usefixtures("own_handlers")
def test_i038_handler_of_updates_and_deletes(connect: Connect, settings: Any) -> None:
    @on_event("zoo.Keeper")
    def handler(events: list[Event]) -> None:
        print([event.new_record or event.old_record for event in events])

    found = diagnosed()
    assert "W037" not in found
    assert "handler reads event.old_record" in found["I038"].message

    follow_hint(found["I038"].hint, settings)
    assert "I038" not in diagnosed()


def test_w037_receiver_of_all_tables(
    connect: Connect, sql: psycopg.Connection[Any]
) -> None:
    connect(post_db_change, reads)
    sql.execute("ALTER TABLE zoo_keeper REPLICA IDENTITY FULL")

    found = diagnosed()["W037"]
    assert "public.zoo_animal, " in found.message
    assert "public.zoo_keeper" not in found.message


class Reader:
    def __call__(self, event: Event, **kwargs: Any) -> None:
        print(event.changes)

    def method(self, event: Event, **kwargs: Any) -> None:
        print(event.changes)


def _wrapper(function: Any) -> Any:
    @wraps(function)
    def call(*arguments: Any, **kwargs: Any) -> Any:
        return function(*arguments, **kwargs)

    return call


async def _asynchronous(event: Event, **kwargs: Any) -> None:
    print(event.changes)


def _nested(event: Event, **kwargs: Any) -> None:
    def inner() -> list[Any]:
        return [each.changes for each in [event]]

    inner()


def _stored(**kwargs: Any) -> Any:
    event = kwargs["event"]
    return event.changes


def _after_deletion(event: Any, **kwargs: Any) -> Any:
    if kwargs:
        del event
    return event.changes


def _captured(event: Event, **kwargs: Any) -> Any:
    kwargs["later"](lambda: event)
    return event.changes


@pytest.mark.parametrize(
    "receiver",
    [
        reads,
        Reader(),
        Reader().method,
        partial(reads, more=1),
        partial(Reader().method),
        _wrapper(reads),
        _wrapper(_wrapper(Reader().method)),
        _asynchronous,
        _nested,
        lambda event, **_: event.changes,
        lambda **kwargs: kwargs["event"].changes,
        lambda e, **_: e.changes,
        lambda ev, **_: ev.changes.items(),
        lambda evt, **_: [evt.changes],
        lambda first_event, **_: (first_event, first_event.changes),
        lambda events: [change.changes for change in events],
        lambda events: {each.id: each.changes for each in events},
        _stored,
        _after_deletion,
        _captured,
    ],
)
def test_attributes_read_from_event_are_found(receiver: Any) -> None:
    assert "changes" in attributes_read(receiver)


class Form:
    changes = old_record = old_instance = None


def _of_call(event: Event, **kwargs: Any) -> Any:
    return Form().changes


def _of_variable(event: Event, **kwargs: Any) -> Any:
    form = Form()
    return form, event, form.changes, form.old_record


def _written(event: Any, **kwargs: Any) -> None:
    event.changes = event.id


@pytest.mark.parametrize(
    "receiver",
    [
        _of_call,
        _of_variable,
        _written,
        lambda event, **_: event.model.changes,
        lambda event, form, **_: (event, form.old_instance),
        lambda **kwargs: kwargs["form"].changes,
        lambda event, form, **_: (event.id, form.changes),
        lambda event, **_: (event, Form.old_record),
        lambda events, forms: (events, [form.changes for form in forms]),
    ],
)
def test_attributes_of_other_objects_are_ignored(receiver: Any) -> None:
    read = attributes_read(receiver)
    assert read.isdisjoint({"changes", "old_record", "old_instance"})


def test_w037_ignores_attributes_of_other_objects(connect: Connect) -> None:
    connect(post_db_update, _of_variable, sender=Keeper)

    assert "W037" not in diagnosed()


def test_local_names_and_strings_are_ignored() -> None:
    def receiver(event: Event, **kwargs: Any) -> None:
        changes = old_record(event)
        print(changes, "old_instance")

    def old_record(event: Event) -> type[Model] | None:
        return event.model

    assert attributes_read(receiver).isdisjoint(
        {"changes", "old_record", "old_instance"}
    )
    # A builtin has no code object to inspect, which must not raise.
    assert attributes_read(print) == frozenset()
