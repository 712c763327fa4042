"""Filters by value, in the settings and on handlers."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.range import TimestamptzRange

from tests.listening import Listening
from tests.zoo.models import Animal, Keeper, Temperature
from walex_django import on_insert
from walex_django.conf.stream import StreamConfig

from .filtering import Filtering, Sql, identity
from .handling import Recorder

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

CHIP = uuid.UUID("4b1f3f62-7d47-4a36-9f4b-0d8f0a8f7f10")
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
NIGHT = TimestamptzRange(NOON, NOON + timedelta(hours=8))
LONG = "".join(str(uuid.uuid4()) for _ in range(300))  # compresses badly


@pytest.fixture(params=["settings", "handler"])
def filtering(request: pytest.FixtureRequest, config: StreamConfig) -> Filtering:
    """A filter in the settings, then one of a handler."""
    return Filtering(config, request.param)


class TestUnwatchedRecords:
    """Rows with all of the given values are not delivered."""

    @pytest.mark.parametrize(
        ("field", "stored", "unwatched"),
        [
            ("story", "of old", "of old"),
            ("tame", True, True),
            ("tame", True, "True"),
            ("weight", Decimal("1.500"), Decimal("1.5")),
            ("weight", Decimal("1.5"), "1.50"),
            ("weight", Decimal(2), 2),
            ("speed", 2.5, 2.5),
            ("speed", 2.5, "2.5"),
            ("born_at", NOON, NOON),
            ("born_at", NOON, "2026-07-01T14:00:00+02:00"),
            ("born_at", NOON, datetime(2026, 7, 1, 14)),  # noqa: DTZ001 - in Berlin
            ("fed_on", date(2026, 1, 2), date(2026, 1, 2)),
            ("fed_on", date(2026, 1, 2), "2026-01-02"),
            ("tags", ["a", "b"], ["a", "b"]),
            ("habits", {"eats": ["meat", 1]}, {"eats": ["meat", 1]}),
            ("chip", CHIP, CHIP),
            ("chip", CHIP, str(CHIP)),
            ("photo", b"\0\xff", b"\0\xff"),
            ("gestation", timedelta(days=110), timedelta(days=110)),
            ("asleep", NIGHT, NIGHT),
            ("names_abroad", {"de": "Löwe"}, {"de": "Löwe"}),
            ("comfort", Temperature(25), Temperature(25)),
        ],
        ids=str,
    )
    def test_values_are_converted_by_the_field(
        self, config: StreamConfig, field: str, stored: Any, unwatched: Any
    ) -> None:
        filtering = Filtering(config, "settings")

        def insert() -> None:
            Animal.objects.create(name="stored", **{field: stored})
            Animal.objects.create(name="other")

        passed = filtering.passed(
            "zoo.Animal", insert, unwatched_records={field: unwatched}
        )
        assert passed == ["insert other"]

    @pytest.mark.parametrize(
        ("field", "other"),
        [("weight", 1), ("born_at", NOON), ("habits", {}), ("comfort", Temperature(1))],
    )
    def test_none_matches_null(
        self, filtering: Filtering, field: str, other: Any
    ) -> None:
        def insert() -> None:
            Animal.objects.create(name="none", **{field: None})
            Animal.objects.create(name="other", **{field: other})

        passed = filtering.passed("zoo.Animal", insert, unwatched_records={field: None})
        assert passed == ["insert other"]

    @pytest.mark.parametrize("name", ["keeper", "keeper_id", "instance", "text"])
    def test_foreign_keys(self, filtering: Filtering, name: str) -> None:
        leo = Animal.objects.create(name="Leo")
        ada, bob = (Keeper.objects.create(name=name) for name in ("Ada", "Bob"))
        choices: dict[str, dict[str, Any]] = {
            "keeper": {"keeper": ada.pk},
            "keeper_id": {"keeper_id": ada.pk},
            "instance": {"keeper": ada},
            "text": {"keeper": str(ada.pk)},
        }
        unwatched, recorder = choices[name], Recorder()
        on_insert("zoo.Animal_keepers", unwatched_records=unwatched)(recorder)

        filtering.passed(
            "zoo.Animal_keepers",
            lambda: leo.keepers.add(ada, bob),
            unwatched_records=unwatched,
        )
        (events,) = recorder.lists
        assert [(each.new_record or {})["keeper_id"] for each in events] == [bob.pk]

    def test_all_values_must_match(self, filtering: Filtering) -> None:
        def insert() -> None:
            for name in ("Leo", "Max"):
                for tame in (True, False):
                    Animal.objects.create(name=name, tame=tame, story=f"{tame}")

        passed = filtering.passed(
            "zoo.Animal", insert, unwatched_records={"name": "Leo", "tame": False}
        )
        assert passed == ["insert Leo", "insert Max", "insert Max"]

    def test_update_is_filtered_by_its_new_row(self, filtering: Filtering) -> None:
        ada, bob = (Keeper.objects.create(name=name) for name in ("Ada", "Bob"))

        def update() -> None:
            Keeper.objects.filter(pk=ada.pk).update(name="Bob")
            Keeper.objects.filter(pk=bob.pk).update(name="Ada")

        passed = filtering.passed(
            "zoo.Keeper", update, unwatched_records={"name": "Ada"}
        )
        assert passed == ["update Bob"]

    def test_delete_is_filtered_by_its_old_row(
        self, filtering: Filtering, sql: Sql
    ) -> None:
        Keeper.objects.create(name="Ada")
        Keeper.objects.create(name="Bob")
        with identity(sql, "zoo_keeper", "FULL"):
            passed = filtering.passed(
                "zoo.Keeper",
                lambda: sql.execute("DELETE FROM zoo_keeper"),
                unwatched_records={"name": "Ada"},
            )
        assert passed == ["delete Bob"]

    def test_delete_with_only_the_key_passes(
        self, filtering: Filtering, sql: Sql
    ) -> None:
        Keeper.objects.create(name="Ada")
        passed = filtering.passed(
            "zoo.Keeper",
            lambda: sql.execute("DELETE FROM zoo_keeper"),
            unwatched_records={"name": "Ada"},
        )
        assert passed == ["delete"]

    def test_delete_is_filtered_by_its_key(
        self, filtering: Filtering, sql: Sql
    ) -> None:
        ada = Keeper.objects.create(name="Ada")
        passed = filtering.passed(
            "zoo.Keeper",
            lambda: sql.execute("DELETE FROM zoo_keeper"),
            unwatched_records={"id": ada.pk},
        )
        assert passed == []

    @pytest.mark.parametrize(
        ("of", "expected"), [("DEFAULT", ["update Leo"]), ("FULL", [])]
    )
    def test_unchanged_long_value(
        self, filtering: Filtering, sql: Sql, of: str, expected: list[str]
    ) -> None:
        Animal.objects.create(name="Leo", story=LONG)
        with identity(sql, "zoo_animal", of):
            passed = filtering.passed(
                "zoo.Animal",
                lambda: Animal.objects.update(tame=True),
                unwatched_records={"story": LONG},
            )
        assert passed == expected

    def test_many_values_of_one_column(self, config: StreamConfig) -> None:
        """More values than are cached."""
        recorder = Recorder()
        on_insert(Keeper, unwatched_records={"name": "7"})(recorder)
        with Listening(replace(config, max_batch=10_000)) as listening:
            names = [str(number % 1500) for number in range(3000)]
            Keeper.objects.bulk_create(Keeper(name=name) for name in names)
            listening.wait_for(3000)
        assert [len(events) for events in recorder.lists] == [2998]
