"""Discovery of handlers, and errors in their registration."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.process import Process, eventually
from tests.zoo.models import Animal, Keeper
from walex_django import ALL_TABLES, Event, on_event, on_insert, on_update
from walex_django.handlers import registry

from .handling import Recorder
from .stream import Stream
from .test_mistakes import ONE

pytestmark = pytest.mark.usefixtures("own_handlers")


def keepers(events: list[Event]) -> None:
    """Do nothing, as a handler."""


NOTHING = None


def like_a_receiver(sender: Any, event: Event) -> None:
    """Do nothing; not a valid handler."""


def by_keyword(*, events: list[Event]) -> None:
    """Do nothing; not a valid handler."""


def fails(register: Callable[[], object]) -> str:
    """Return the error, which must name this file and the registration's line."""
    with pytest.raises(ImproperlyConfigured) as caught:
        register()
    place, _, problem = str(caught.value).partition(", @")
    path, _, line = place.rpartition(":")
    assert path == __file__
    source = Path(__file__).read_text().splitlines()[int(line) - 1]
    decorator = problem.partition(":")[0]
    assert f"{decorator}(" in source
    return problem.partition(": ")[2]


class TestWrong:
    """The error is raised at import and names the place."""

    def test_function_cannot_be_registered_twice(self) -> None:
        on_insert(Keeper)(keepers)
        first = sys._getframe().f_lineno - 1
        assert fails(lambda: on_insert(Animal)(keepers)) == (
            "tests.integration.test_registration.keepers is already registered at"
            f" {__file__}:{first}. Pass all its tables to one decorator."
        )
        on_update(Animal)(keepers)

    @pytest.mark.parametrize(
        ("tables", "problem"),
        [
            ("zoo.Kepper", "The app 'zoo' has no model 'Kepper'; its models are "),
            ("Keeper", "a table must be a model or 'app.Model', not 'Keeper'"),
            ("zoo.", "a table must be a model or 'app.Model', not 'zoo.'"),
            (".keeper", "a table must be a model or 'app.Model', not '.keeper'"),
            ("*.keeper", "a table must be a model or 'app.Model', not '*.keeper'"),
            (
                [Keeper, int],
                "a table must be a model or 'app.Model', not <class 'int'>",
            ),
            ([], "tables must not be empty"),
            (None, "tables must be a table or a list of tables, not None"),
            (
                keepers,
                "tables must be a table or a list of tables, not <function keepers",
            ),
        ],
    )
    def test_invalid_tables(self, tables: Any, problem: str) -> None:
        assert fails(lambda: on_insert(tables)(keepers)).startswith(problem)
        assert not _registered()

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            (
                {"unwatched_fields": ["nmae"]},
                "zoo.Keeper has no field 'nmae'; its fields are ",
            ),
            (
                {"changed": ["animals"]},
                "zoo.Keeper has no field 'animals'; its fields are ",
            ),
            ({"unwatched_records": {"tame": 1}}, "zoo.Keeper has no field 'tame'"),
            (
                {"unwatched_records": {"id": "one"}},
                "'one' is not a valid value for zoo.Keeper.id: ",
            ),
            ({"unwatched_records": ["name"]}, "unwatched_records must be a dict of"),
            ({"unwatched_fields": 5}, "unwatched_fields must be a string or a list"),
            ({"where": 5}, "where must be a callable or its dotted path, not 5"),
            ({"where": "nowhere"}, "where must be a callable or its dotted path"),
            ({"functions": "note"}, "functions must be a list, not 'note'"),
            ({"stream": 5}, "stream must be a string, not 5"),
            (
                {"function": ["note"]},
                "unknown argument 'function'. Choices are: stream, unwatched_records, ",
            ),
        ],
    )
    def test_invalid_options(self, options: Any, problem: str) -> None:
        assert fails(lambda: on_insert(Keeper, **options)(keepers)).startswith(problem)
        assert not _registered()

    def test_each_model_of_a_list_must_have_the_fields(self) -> None:
        problem = fails(lambda: on_insert([Animal, Keeper], changed=["tame"])(keepers))
        assert problem.startswith("zoo.Keeper has no field 'tame'")

    @pytest.mark.parametrize(
        ("functions", "problem"),
        [
            (["nowhere"], "functions contains 'nowhere': module "),
            (["nowhere.note"], "functions contains 'nowhere.note': No module named"),
            (
                [("json", "note")],
                "functions contains ('json', 'note'): module 'json' has no",
            ),
            ([(json, "note")], "functions contains (<module 'json' from "),
            ([5], "functions contains 5, which is not callable."),
            (["NOTHING"], "functions contains 'NOTHING', which is not callable."),
            ([lambda: None], "<function TestWrong.<lambda> at "),
        ],
    )
    def test_invalid_functions(self, functions: Any, problem: str) -> None:
        on_insert(Keeper, functions=functions)(keepers)
        place = f"{__file__}:{sys._getframe().f_lineno - 1}, @on_insert: "
        with pytest.raises(ImproperlyConfigured) as caught:
            registry.load()
        assert str(caught.value).startswith(place + problem)

    def test_missing_where_function(self) -> None:
        on_insert(Keeper, where="nowhere.is_it")(keepers)
        with pytest.raises(ImproperlyConfigured, match="on_insert: where: No module"):
            registry.load()

    @pytest.mark.parametrize("function", [lambda: None, like_a_receiver, by_keyword])
    def test_handler_must_accept_a_list(self, function: Any) -> None:
        problem = fails(lambda: on_event(ALL_TABLES)(function))
        assert "must accept a list of events as its only argument" in problem


def _registered() -> bool:
    return any(each.function is keepers for each in registry.handlers.values())


class TestDiscovery:
    """Modules with handlers are imported."""

    def test_function_may_be_in_a_module_with_handlers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "far_away.py").write_text(
            "from walex_django import on_insert\n"
            "@on_insert('zoo.Animal', functions=['note'])\n"
            "def animals(events): ...\n"
            "def note(event): ...\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        on_insert(Keeper, functions=["far_away.note"])(Recorder())
        registry.load()

        animals = registry.handlers["on_insert", "far_away.animals"]
        assert [each.__qualname__ for each in animals.functions] == ["note"]

    def test_object_without_a_name_is_named_after_its_class(self) -> None:
        class Handler:
            def __call__(self, events: list[Event]) -> None:
                pass

        on_insert(Keeper)(Handler())
        names = [name for _, name in registry.handlers]
        assert [each for each in names if each.endswith("<locals>.Handler")]


@pytest.mark.django_db(transaction=True)
class TestListener:
    """A listener process finds handlers."""

    def test_handlers_in_apps_and_modules_are_found(
        self, stream: Stream, tmp_path: Path
    ) -> None:
        notes = tmp_path / "notes"
        stream.env |= {
            "ZOO_HANDLED": str(notes),
            "ZOO_STREAM": json.dumps({"MODULES": ["tests.zoo.more_handlers"]}),
        }
        with stream.listening() as listener:
            stream.write("Ada")
            eventually(lambda: stream.delivered() == ["Ada"], "the delivery of Ada")
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0, listener.output
        assert sorted(notes.read_text().splitlines()) == [
            *("function Ada", "keepers Ada", "more keepers Ada"),
        ]

    def test_registration_error_is_reported_at_startup(
        self, stream: Stream, tmp_path: Path
    ) -> None:
        module = tmp_path / "wrong_handlers.py"
        module.write_text(
            "from walex_django import on_insert\n"
            "\n"
            "@on_insert('zoo.Kepper')\n"
            "def keepers(events): ...\n"
        )
        stream.env |= {
            "PYTHONPATH": str(tmp_path),
            "ZOO_STREAM": json.dumps({"MODULES": ["wrong_handlers"]}),
        }
        with Process("walex_listen", *ONE, env=stream.env) as listener:
            assert listener.wait() == 1
        assert f"{module}:3, @on_insert: The app 'zoo' has no" in listener.output

    def test_missing_module_is_reported(self, stream: Stream) -> None:
        stream.env |= {"ZOO_STREAM": json.dumps({"MODULES": ["zoo.nowhere"]})}
        with Process("walex_listen", *ONE, env=stream.env) as listener:
            assert listener.wait() == 1
        assert "walex_django.E009" in listener.output
        assert "['MODULES']: No module named 'zoo.nowhere'." in listener.output
