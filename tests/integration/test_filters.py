"""Filters by value and by function, in the settings and on handlers."""

from __future__ import annotations

import logging
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from tests.listening import Listening
from tests.zoo.models import Animal, Building, Keeper
from walex_django import Event, EventType, on_event, on_update
from walex_django.conf.parsers import read_filter
from walex_django.conf.stream import StreamConfig
from walex_django.filters import matches

from .filtering import Filtering, Sql
from .handling import Recorder, label, wait_until_done

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]


@pytest.fixture(params=["settings", "handler"])
def filtering(request: pytest.FixtureRequest, config: StreamConfig) -> Filtering:
    """A filter in the settings, then one on a handler."""
    return Filtering(config, request.param)


class TestWhere:
    """A function decides which events pass."""

    @pytest.mark.parametrize(
        "where",
        [lambda event: label(event).endswith("Ada"), f"{__name__}.is_of_ada"],
        ids=["callable", "path"],
    )
    def test_where_can_be_callable_or_path(
        self, filtering: Filtering, where: Any
    ) -> None:
        def insert() -> None:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])

        assert filtering.passed("zoo.Keeper", insert, where=where) == ["insert Ada"]

    def test_event_passes_if_where_raises(
        self, filtering: Filtering, caplog: pytest.LogCaptureFixture
    ) -> None:
        def raises(event: Event) -> bool:
            raise LookupError(label(event))

        with caplog.at_level(logging.ERROR, "walex_django.filters"):
            passed = filtering.passed(
                "zoo.Keeper", lambda: Keeper.objects.create(name="Ada"), where=raises
            )
        assert passed == ["insert Ada"]
        assert "The filter's where failed for" in caplog.text
        assert "LookupError: insert Ada" in caplog.text

    def test_where_can_use_predicates(self, filtering: Filtering) -> None:
        def change() -> None:
            Keeper.objects.create(name="Ada")
            Keeper.objects.update(name="Bob")

        passed = filtering.passed(
            "zoo.Keeper", change, where=partial(matches, type="update")
        )
        assert passed == ["update Bob"]


def is_of_ada(event: Event) -> bool:
    return label(event).endswith("Ada")


class TestTruncate:
    """TRUNCATE has no rows, so only ``where`` applies."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"unwatched_records": {"name": None}}, ["truncate"]),
            ({"unwatched_fields": ["id", "name"]}, ["truncate"]),
            ({"changed": ["name"]}, ["truncate"]),
            ({"where": lambda event: event.type != EventType.TRUNCATE}, []),
        ],
        ids=" ".join,
    )
    def test_only_where_filters_truncate(
        self, filtering: Filtering, sql: Sql, options: Any, expected: list[str]
    ) -> None:
        passed = filtering.passed(
            "zoo.Keeper",
            lambda: sql.execute("TRUNCATE zoo_keeper CASCADE"),
            **options,
        )
        assert passed == expected


class TestTables:
    """Tables that a filter applies to."""

    def test_table_without_model(self, filtering: Filtering, sql: Sql) -> None:
        sql.execute("CREATE SCHEMA bare CREATE TABLE stone (name text, price numeric)")
        sql.execute("ALTER PUBLICATION zoo_events ADD TABLE bare.stone")
        filtering._config = replace(filtering._config, subscriptions=("*",))
        try:
            passed = filtering.passed(
                "bare.stone",
                lambda: sql.execute(
                    "INSERT INTO bare.stone VALUES ('flint', 1.50), ('ruby', 2)"
                ),
                unwatched_records={"price": Decimal("1.5")},
            )
        finally:
            sql.execute("DROP SCHEMA bare CASCADE")
        assert passed == ["insert ruby"]

    def test_table_of_model_by_its_name(self, filtering: Filtering) -> None:
        def insert() -> None:
            Keeper.objects.bulk_create([Keeper(name="Ada"), Keeper(name="Bob")])

        passed = filtering.passed(
            "public.zoo_keeper", insert, unwatched_records={"name": "Ada"}
        )
        assert passed == ["insert Bob"]

    def test_models_of_app_that_have_the_field(self, filtering: Filtering) -> None:
        def insert() -> None:
            ada = Keeper.objects.create(name="Ada")
            Building.objects.create(name="Ada")
            leo = Animal.objects.create(name="Leo")
            leo.keepers.add(ada)

        passed = filtering.passed("zoo.*", insert, unwatched_records={"name": "Ada"})
        assert passed == ["insert Leo", "insert"]

    def test_value_that_is_invalid_for_the_field(self, filtering: Filtering) -> None:
        passed = filtering.passed(
            "zoo.*",
            lambda: Keeper.objects.create(name="Ada"),
            unwatched_records={"id": "one"},
        )
        assert passed == ["insert Ada"]


def test_filters_in_settings_and_on_handlers_are_combined(config: StreamConfig) -> None:
    heard, others = Recorder(), Recorder("others")
    on_event(Keeper, unwatched_records={"name": "Bob"})(heard)
    on_event("zoo.*", where=is_of_ada)(others)
    filters = {
        "zoo.*": read_filter({"unwatched_records": {"name": "Cem"}}),
        "zoo.Keeper": read_filter({"unwatched_records": {"name": "Eva"}}),
        "public.zoo_keeper": read_filter(
            {"where": lambda each: "Fay" not in label(each)}
        ),
    }
    with Listening(replace(config, filters=filters)) as listening:
        for name in ("Ada", "Bob", "Cem", "Eva", "Fay"):
            Keeper.objects.create(name=name)
        Building.objects.create(name="Cem")
        Building.objects.create(name="Eva")
        wait_until_done(listening)
    assert [label(event) for event in listening.events] == [
        *("insert Ada", "insert Bob", "insert Eva"),
    ]
    assert heard.labels == [["insert Ada"]]
    assert others.labels == [["insert Ada"]]


def test_handler_is_not_called_if_all_its_events_are_filtered_out(
    config: StreamConfig,
) -> None:
    heard = Recorder()
    on_update(Keeper, changed=["id"])(heard)
    Keeper.objects.create(name="Ada")
    with Listening(config) as listening:
        Keeper.objects.update(name="Bob")
        wait_until_done(listening)
    assert heard.lists == []
    assert [label(event) for event in listening.events] == ["update Bob"]
