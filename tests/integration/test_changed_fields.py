"""Filters on the columns that an UPDATE changed, as far as the server reports it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.zoo.models import Animal, Keeper
from walex_django.conf.stream import StreamConfig

from .filtering import Filtering, Sql, identity

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

LONG = "".join(str(uuid.uuid4()) for _ in range(300))  # compresses badly


@pytest.fixture(params=["settings", "handler"])
def filtering(request: pytest.FixtureRequest, config: StreamConfig) -> Filtering:
    """A filter in the settings, then one on a handler."""
    return Filtering(config, request.param)


@pytest.fixture
def leo(config: StreamConfig) -> Animal:
    """An animal with a story that is stored out of line."""
    return Animal.objects.create(name="Leo", story=LONG)


def changes(leo: Animal) -> Callable[[], None]:
    """Return a function that changes Leo's name, tameness, story, and then nothing."""

    def change() -> None:
        rows = Animal.objects.filter(pk=leo.pk)
        rows.update(name="name")
        rows.update(name="tame", tame=True)
        rows.update(name="story", story=f"{LONG}!")
        rows.update(name="story")

    return change


OTHERS = sorted(
    {field.attname for field in Animal._meta.local_concrete_fields}
    - {"name", "tame", "story"}
)


class TestFull:
    """With REPLICA IDENTITY FULL the server sends all old values."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"unwatched_fields": ["name"]}, ["tame", "story"]),
            ({"unwatched_fields": "name"}, ["tame", "story"]),
            ({"unwatched_fields": ["name", "tame"]}, ["story"]),
            ({"unwatched_fields": ["name", "story"]}, ["tame"]),
            ({"unwatched_fields": OTHERS}, ["name", "tame", "story"]),
            ({"unwatched_fields": [*OTHERS, "name", "tame", "story"]}, []),
            ({"changed": ["name"]}, ["name", "tame", "story"]),
            ({"changed": ["tame"]}, ["tame"]),
            ({"changed": ["story", "tame"]}, ["tame", "story"]),
            ({"changed": ["id"]}, []),
            ({"changed": ["name"], "unwatched_fields": ["tame", "name"]}, ["story"]),
        ],
        ids=str,
    )
    def test_updates_are_filtered(
        self,
        filtering: Filtering,
        leo: Animal,
        sql: Sql,
        options: Any,
        expected: list[str],
    ) -> None:
        with identity(sql, "zoo_animal", "FULL"):
            passed = filtering.passed("zoo.Animal", changes(leo), **options)
        assert passed == [f"update {name}" for name in expected]

    def test_inserts_and_deletes_pass(self, filtering: Filtering, sql: Sql) -> None:
        def change() -> None:
            Keeper.objects.create(name="Ada")
            Keeper.objects.all().delete()

        with identity(sql, "zoo_keeper", "FULL"):
            passed = filtering.passed(
                *("zoo.Keeper", change), changed=["id"], unwatched_fields=["name"]
            )
        assert passed == ["insert Ada", "delete Ada"]


class TestDefault:
    """With the default identity the server sends old keys and marks long values."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"unwatched_fields": ["name"]}, ["name", "tame", "story", "story"]),
            ({"changed": ["tame"]}, ["name", "tame", "story", "story"]),
            ({"changed": ["story"]}, ["story"]),
            ({"changed": ["id"]}, []),
            ({"changed": ["id", "story"]}, ["story"]),
        ],
        ids=str,
    )
    def test_updates_are_filtered(
        self, filtering: Filtering, leo: Animal, options: Any, expected: list[str]
    ) -> None:
        passed = filtering.passed("zoo.Animal", changes(leo), **options)
        assert passed == [f"update {name}" for name in expected]

    def test_key_change_passes(self, filtering: Filtering, sql: Sql) -> None:
        ada = Keeper.objects.create(name="Ada")

        def change() -> None:
            Keeper.objects.filter(pk=ada.pk).update(name="Bob")
            Keeper.objects.filter(pk=ada.pk).update(id=ada.pk + 1000)

        passed = filtering.passed("zoo.Keeper", change, changed=["id"])
        assert passed == ["update Bob"]
        ((pk,),) = sql.execute("SELECT id FROM zoo_keeper")
        assert pk == ada.pk + 1000

    def test_key_change_passes_if_other_fields_are_unwatched(
        self, filtering: Filtering
    ) -> None:
        ada = Keeper.objects.create(name="Ada")

        def change() -> None:
            Keeper.objects.filter(pk=ada.pk).update(name="Bob")
            Keeper.objects.filter(pk=ada.pk).update(id=ada.pk + 1000, name="Cem")

        passed = filtering.passed("zoo.Keeper", change, unwatched_fields=["name"])
        assert passed == ["update Cem"]


class TestUsingIndex:
    """With an index as replica identity, its columns are the key."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"changed": ["name"]}, ["Bob"]),
            ({"changed": ["id"]}, ["Ada", "Bob"]),
            ({"unwatched_fields": ["id"]}, ["Bob"]),
            ({"unwatched_fields": ["name"]}, ["Ada", "Bob"]),
        ],
        ids=str,
    )
    def test_updates_are_filtered(
        self, filtering: Filtering, sql: Sql, options: Any, expected: list[str]
    ) -> None:
        ada = Keeper.objects.create(name="Ada")

        def change() -> None:
            Keeper.objects.filter(pk=ada.pk).update(id=ada.pk + 1000)
            Keeper.objects.update(name="Bob")

        sql.execute("CREATE UNIQUE INDEX zoo_names ON zoo_keeper (name)")
        try:
            with identity(sql, "zoo_keeper", "USING INDEX zoo_names"):
                passed = filtering.passed("zoo.Keeper", change, **options)
        finally:
            sql.execute("DROP INDEX zoo_names")
        assert passed == [f"update {name}" for name in expected]


def test_unpublished_column_counts_as_changed(filtering: Filtering, sql: Sql) -> None:
    Keeper.objects.create(name="Ada")
    sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")
    sql.execute("ALTER PUBLICATION zoo_events ADD TABLE zoo_keeper (id)")
    try:
        passed = filtering.passed(
            "zoo.Keeper",
            lambda: Keeper.objects.update(name="Bob"),
            changed=["name"],
        )
    finally:
        sql.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_keeper")
        sql.execute("ALTER PUBLICATION zoo_events ADD TABLE zoo_keeper")
    assert passed == ["update"]
