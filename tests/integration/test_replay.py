"""``walex_replay`` with unusual errors, late errors and database errors."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO, TextIOWrapper
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from tests.listening import Connect, Listening
from tests.process import Process
from tests.zoo.models import Animal, Keeper, Mascot
from walex_django import Event
from walex_django.conf.stream import StreamConfig
from walex_django.models import ParkedEvent
from walex_django.signals import post_db_insert

from .mascots import Sql, name_of

pytestmark = pytest.mark.django_db(transaction=True)

FAILED = "The calls that failed stay parked."


def park(config: StreamConfig, *names: str) -> None:
    """Deliver keepers with these names, and park each call."""
    with Listening(replace(config, max_retries=0)) as listening:
        for name in names:
            Keeper.objects.create(name=name)
        listening.wait_for(len(names))
    assert ParkedEvent.objects.count() == len(names)


def replay(*options: str) -> tuple[str, str]:
    """Replay as if on a terminal; return the output and the error."""
    error = ""
    output = TextIOWrapper(BytesIO(), encoding="utf-8")
    try:
        call_command("walex_replay", *options, stdout=output, no_color=True)
    except CommandError as raised:
        error = str(raised)
    output.seek(0)
    return output.read(), error


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        ("nul \x00 byte", r"nul \x00 byte"),
        ("lone \ud800 surrogate", r"lone \ud800 surrogate"),
        ("Käfig", "Käfig"),
    ],
    ids=["nul", "surrogate", "umlaut"],
)
def test_an_error_of_any_text_is_parked_and_printed(
    config: StreamConfig, connect: Connect, message: str, stored: str
) -> None:
    reasons = [message, message]

    def fail(**kwargs: Any) -> None:
        if reasons:
            raise ValueError(reasons.pop())

    connect(post_db_insert, fail)
    park(config, "Ada")
    parked = ParkedEvent.objects.get()
    assert parked.error == f"ValueError: {stored}"
    assert f"ValueError: {stored}" in parked.traceback
    assert f": ValueError: {stored}\n1 parked" in replay("--dry-run")[0]

    printed, error = replay()
    assert f": ValueError: {stored}\n0 delivered, 1 failed again" in printed
    assert error == FAILED
    parked.refresh_from_db()
    assert (parked.error, parked.attempts) == (f"ValueError: {stored}", 2)

    assert replay() == ("1 delivered, 0 failed again\n", "")
    assert not ParkedEvent.objects.exists()


def make_atomic(settings: Any) -> None:
    """Make the first stream of the settings ``ATOMIC``."""
    walex = settings.WALEX
    settings.WALEX = {**walex, "default": {**walex["default"], "ATOMIC": True}}


def test_only_the_call_that_violates_a_deferred_constraint_fails(
    config: StreamConfig, connect: Connect, settings: Any
) -> None:
    make_atomic(settings)
    animal = Animal.objects.create(name="Leo")
    fixed = False

    def assign(event: Event, **kwargs: Any) -> None:
        if not fixed:
            raise ValueError
        Mascot.objects.create(name=name_of(event))
        if name_of(event) == "dangling":
            Animal.keepers.through.objects.create(animal_id=animal.pk, keeper_id=-1)

    connect(post_db_insert, assign, Keeper)
    park(config, "Ada", "dangling", "Bob")
    fixed = True

    printed, error = replay()
    assert "assign: django.db.utils.IntegrityError: " in printed
    assert printed.endswith("2 delivered, 1 failed again\n")
    assert error == FAILED
    parked = ParkedEvent.objects.get()
    assert parked.arguments["event"]["new_record"]["name"] == "dangling"
    assert parked.error.startswith("django.db.utils.IntegrityError: ")
    assert "zoo_animal_keepers" in parked.error
    assert "IntegrityError" in parked.traceback
    assert parked.attempts == 2
    names = Mascot.objects.order_by("pk").values_list("name", flat=True)
    assert list(names) == ["Ada", "Bob"]
    assert not animal.keepers.exists()


def test_missing_tables_are_reported_in_one_line(
    environment: dict[str, str], sql: Sql
) -> None:
    sql.execute("CREATE DATABASE bare")
    try:
        server, _, _ = environment["ZOO_DATABASE_URL"].rpartition("/")
        env = {**environment, "ZOO_DATABASE_URL": f"{server}/bare"}
        for options in ([], ["--dry-run"]):
            with Process("walex_replay", *options, env=env) as process:
                assert process.wait() == 1
            (line,) = process.lines
            assert line.startswith("CommandError: ")
            assert "python manage.py migrate walex_django --database default" in line
    finally:
        sql.execute("DROP DATABASE bare")
