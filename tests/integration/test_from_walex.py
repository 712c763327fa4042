"""The examples of docs/from-walex.md do what the page promises."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import importlib
import json
import logging
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings
from pytest_django import DjangoDbBlocker, Settings

from tests.listening import Listening
from tests.process import Process, eventually
from walex_django import Event, __version__
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.filters import matches
from walex_django.handlers import registry
from walex_django.models import ParkedEvent

from .inbox import Inbox
from .page import EXAMPLES, PAGE, Project

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def todos(
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Project]:
    """The app of the page, with its tables."""
    project = Project(tmp_path_factory.mktemp("project"))
    (project.root / "todos").mkdir()
    (project.root / "todos/__init__.py").touch()
    project.write("models")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.syspath_prepend(project.root)
        # A file overwritten within a second would count as unchanged.
        patch.setattr(sys, "dont_write_bytecode", True)
        installed = ["todos", *_installed()]
        stack.enter_context(override_settings(INSTALLED_APPS=installed))
        stack.enter_context(django_db_blocker.unblock())
        (project.root / "todos/migrations").mkdir()
        (project.root / "todos/migrations/__init__.py").touch()
        call_command("makemigrations", "todos", verbosity=0)
        project.write("replica-identity")
        call_command("migrate", "todos", verbosity=0)
        yield project
        call_command("migrate", "todos", "zero", verbosity=0)
    apps.all_models.pop("todos")
    for module in [each for each in sys.modules if each.split(".")[0] == "todos"]:
        del sys.modules[module]


def _installed() -> list[str]:
    from django.conf import settings

    return list(settings.INSTALLED_APPS)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Set environment variables that the page's settings read; return all of them."""
    at = connections["default"].settings_dict
    given = {f"PG{key}": str(at[key]) for key in ("HOST", "PORT", "USER", "PASSWORD")}
    url = "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**at)
    given |= {"PGDATABASE": at["NAME"], "DATABASE_URL": url, "WALEX_URL": url}

    def add(**variables: str) -> dict[str, str]:
        given.update(variables)
        for key, value in given.items():
            monkeypatch.setenv(key, value)
        return given

    add()
    return add


@pytest.fixture
def settings_of(
    todos: Project, settings: Settings, environ: object
) -> Iterator[Callable[[str], StreamConfig]]:
    """Use the ``WALEX`` of an example, and run walex_setup for it."""
    with ExitStack() as stack:

        def use(name: str, **changed: Any) -> StreamConfig:
            walex = todos.run(name)["WALEX"]
            for stream in walex.values():
                stream.update(RETRY_BACKOFF=0.001, **changed)
            settings.WALEX = walex
            call_command("walex_setup", stdout=StringIO())
            stack.callback(_tear_down, settings, copy.deepcopy(walex))
            return get_config("default")

        yield use


def _tear_down(settings: Settings, walex: dict[str, Any]) -> None:
    settings.WALEX = walex
    call_command("walex_teardown", interactive=False, stdout=StringIO())


@pytest.fixture
def stream(settings_of: Callable[[str], StreamConfig]) -> StreamConfig:
    """The stream as the page configures it."""
    return settings_of("configuration")


@pytest.fixture
def app(todos: Project) -> Iterator[Callable[[str], ModuleType]]:
    """Write an example into the app, and load it as a starting listener does."""
    written: list[str] = []

    def write(name: str) -> ModuleType:
        module = todos.write(name)
        written.append(module)
        registry.load(get_config("default").modules)
        return importlib.import_module(module)

    yield write
    for handler in list(registry.handlers.values()):
        if handler.function.__module__ in written:
            registry.unregister(handler.function)
    for module in written:
        sys.modules.pop(module, None)
        # The package also has the submodule as an attribute.
        package, _, last = module.rpartition(".")
        vars(sys.modules[package]).pop(last, None)
        (todos.root / module.replace(".", "/")).with_suffix(".py").unlink()


def model(name: str) -> Any:
    return apps.get_model("todos", name)


def add_user(name: str, **values: Any) -> Any:
    return model("User").objects.create(
        name=name, email=f"{name.lower()}@example.com", **values
    )


def names(events: list[Event]) -> list[str]:
    return [(event.new_record or {})["name"] for event in events]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_every_code_block_is_tested() -> None:
    tested = re.findall(
        r'(?:write|run|app|settings_of|process|EXAMPLES)[(\[]"([a-z-]+)"',
        Path(__file__).read_text(),
    )

    assert PAGE.count("```") == 2 * len(EXAMPLES)
    assert set(EXAMPLES) == set(tested)


class TestSettings:
    """Streams in processes that have the page's settings and no others."""

    @pytest.fixture
    def process(
        self, todos: Project, app: object, environ: Callable[..., dict[str, str]]
    ) -> Callable[..., Process]:
        def start(example: str, *arguments: str) -> Process:
            env = environ(
                DJANGO_SETTINGS_MODULE=todos.write(example),
                PYTHONPATH=str(todos.root),
            )
            return Process(*arguments, env=env)

        return start

    def run(self, process: Callable[..., Process], *arguments: str) -> str:
        with process(*arguments) as command:
            assert command.wait() == 0, command.output
            return command.output

    @pytest.fixture
    def handler(self, app: Callable[[str], ModuleType]) -> None:
        app("event-module")

    @pytest.fixture(autouse=True)
    def torn_down(
        self, handler: None, process: Callable[..., Process]
    ) -> Iterator[None]:
        yield
        for example in ("configuration", "durable-slot"):
            self.run(process, example, "walex_teardown", "--no-input")

    def test_connection_by_parts(self, process: Callable[..., Process]) -> None:
        """The commands come from an example as well."""
        setup, listen = (
            line.split()[2:] for line in EXAMPLES["supervisor"].splitlines()
        )
        self.run(process, "configuration", *setup)
        with process("configuration", *listen) as listener:
            listener.wait_for("Quit with")
            add_user("Ada")
            assert listener.wait_for("insert:") == "insert: Ada"
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0
        assert "default_walex (temporary)" in listener.output
        assert "events: public.todo, public.user" in listener.output

    def test_connection_by_url(
        self,
        process: Callable[..., Process],
        environ: Callable[..., dict[str, str]],
        sql: psycopg.Connection[Any],
    ) -> None:
        url = environ()["WALEX_URL"]
        environ(WALEX_URL=f"{url}?application_name=by_url")
        self.run(process, "configuration-url", "walex_setup")
        with process("configuration-url", "walex_listen") as listener:
            listener.wait_for("Quit with")
            assert _replicating(sql) == ["by_url"]
            add_user("Ada")
            assert listener.wait_for("insert:") == "insert: Ada"
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0

    def test_durable_slot(self, process: Callable[..., Process]) -> None:
        self.run(process, "durable-slot", "walex_setup")
        add_user("Ada")
        with process("durable-slot", "walex_listen") as listener:
            listener.wait_for("Quit with")
            assert listener.wait_for("insert:") == "insert: Ada"
            listener.signal(signal.SIGKILL)
            listener.wait()
        assert "my_app (durable)" in listener.output
        add_user("Bob")
        output = self.run(process, "durable-slot", "walex_listen", "--drain")
        assert output.count("insert: Bob") == 1


def _replicating(sql: psycopg.Connection[Any]) -> list[str]:
    rows = sql.execute("SELECT application_name FROM pg_stat_replication")
    return [name for (name,) in rows]


def test_replica_identity(stream: StreamConfig, sql: psycopg.Connection[Any]) -> None:
    """The migration was applied when the tables were created."""
    identities = sql.execute(
        "SELECT relname, relreplident::text FROM pg_class"
        " WHERE relname IN ('user', 'todo') ORDER BY 1"
    )
    assert identities.fetchall() == [("todo", "f"), ("user", "f")]


def test_row_filter(
    settings_of: Callable[..., StreamConfig], sql: psycopg.Connection[Any]
) -> None:
    sql.execute(EXAMPLES["row-filter"].encode())
    config = settings_of(
        "configuration", PUBLICATION="user_event", SUBSCRIPTIONS=["todos.User"]
    )
    with Listening(config) as listening:
        add_user("nobody's", event_subscribe=False)
        add_user("Ada")
        assert names(listening.wait_for(1)) == ["Ada"]


def test_streams(
    settings_of: Callable[..., StreamConfig],
    settings: Settings,
    app: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings_of("configuration")
    of = settings.WALEX["default"]
    settings.WALEX = {"default": of, "crm": {**of, "SLOT_NAME": "crm"}}
    app("streams")
    with Listening(get_config("crm")) as listening:
        add_user("Ada")
        listening.wait_for(1)
    assert lines(capsys) == ["crm: Ada"]
    with Listening(get_config("default")) as listening:
        add_user("Bob")
        listening.wait_for(1)
    assert lines(capsys) == ["default: Bob"]


class TestRunTime:
    @pytest.fixture
    def users(
        self, settings_of: Callable[..., StreamConfig], settings: Settings
    ) -> StreamConfig:
        """A stream of users only, whose publication also contains todos."""
        settings_of("configuration")
        walex = copy.deepcopy(settings.WALEX)
        walex["default"]["SUBSCRIPTIONS"] = ["todos.User"]
        settings.WALEX = walex
        return get_config("default")

    @pytest.fixture
    def write(self) -> Callable[[], None]:
        """Commit a user, a todo of theirs, and another user."""

        def write() -> None:
            model("Todo").objects.create(user=add_user("Ada"), description="work")
            add_user("Bob")

        return write

    def test_functions(
        self,
        users: StreamConfig,
        todos: Project,
        write: Callable[[], None],
        environ: Callable[..., dict[str, str]],
        sql: psycopg.Connection[Any],
    ) -> None:
        url = environ()["WALEX_URL"]
        environ(NEW_WALEX_URL=f"{url}?application_name=moved")
        with Listening(users) as listening:
            write()
            listening.wait_for(2)
            todos.run("runtime")
            write()
            events = listening.wait_for(5)
            assert [event.name for event in events] == [
                *("user", "user"),
                *("user", "todo", "user"),
            ]
            assert get_config("default").subscriptions == ("todos.User", "todos.Todo")
            # The URL applies from the next connection on.
            assert "moved" not in _replicating(sql)
            sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            eventually(lambda: _replicating(sql) == ["moved"], "the new connection")

    def test_command(self, users: StreamConfig, write: Callable[[], None]) -> None:
        add, remove, replace, show = map(
            shlex.split, EXAMPLES["runtime-command"].splitlines()
        )
        with Listening(users) as listening:
            call_command(*add[2:], stdout=StringIO())
            write()
            # The listener shares this process: it may apply a change before reading it.
            listening.wait_for(3)
            call_command(*remove[2:], stdout=StringIO())
            write()
            events = listening.wait_for(5)
        assert [event.name for event in events] == [
            *("user", "todo", "user"),
            *("user", "user"),
        ]
        call_command(*replace[2:], stdout=StringIO())
        call_command(*show[2:], stdout=(shown := StringIO()))
        assert "MAX_RETRIES = 3  (changed)" in shown.getvalue().splitlines()
        assert get_config("default").max_retries == 3


def test_event_module(
    stream: StreamConfig,
    app: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    app("event-module")
    with Listening(stream) as listening:
        with transaction.atomic():
            ada = add_user("Ada")
            model("User").objects.update(name="Bob")
            add_user("Cem")
        model("Todo").objects.create(user=ada, description="work")
        model("User").objects.filter(name="Cem").delete()
        listening.wait_for(5)
    assert lines(capsys) == [
        "any table: user.insert user.update user.insert",
        "any change: insert update insert",
        "insert: Ada Cem",
        "update: name Ada to Bob",
        "any table: todo.insert",
        "any table: user.delete",
        "any change: delete",
        "delete: Cem",
    ]


def test_modules(
    settings_of: Callable[..., StreamConfig],
    todos: Project,
    app: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    todos.write("modules")
    config = settings_of("configuration", MODULES=["todos.audit"])
    app("modules")
    with Listening(config) as listening:
        add_user("Ada")
        (event,) = listening.wait_for(1)
    at = event.timestamp.isoformat()
    assert lines(capsys) == [f"audit: {at} {event.id} insert user"]


def test_filters(
    stream: StreamConfig,
    app: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    app("filters")
    users = model("User").objects
    with Listening(stream) as listening:
        add_user("Ada")
        add_user("Out", event_subscribe=False)
        users.filter(name="Ada").update(todos_count=3)
        users.filter(name="Ada").update(todos_count=4, name="Bob")
        users.filter(name="Out").update(name="Off")
        users.filter(name="Off").update(event_subscribe=True)
        listening.wait_for(6)
    assert lines(capsys) == ["insert: Ada", "update: Bob", "update: Off"]


def test_predicates(
    stream: StreamConfig,
    app: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    app("predicates")
    todo = model("Todo").objects
    with Listening(stream) as listening:
        with transaction.atomic():
            ada = add_user("Ada")
            todo.create(user=ada, description="work")
            todo.create(user=ada, description="rest")
            todo.filter(description="rest").delete()
        todo.create(user=ada, description="play")
        (*_, last) = listening.wait_for(5)
    assert lines(capsys) == ["a new user with 2 todos"]
    # As the page's table of predicates says.
    with pytest.raises(ValueError, match="schema:table"):
        matches(last, "public:todo:bad")


def test_functions(
    stream: StreamConfig,
    settings: Settings,
    app: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Django 6.1 requires it.
    settings.MAILERS = {
        "default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    }
    app("functions")
    cache.set("users", "stale")
    with Listening(stream) as listening:
        add_user("Out", event_subscribe=False)
        add_user("Ada")
        events = listening.wait_for(3)
    assert lines(capsys) == ["insert: Ada"]
    assert [event.name for event in events] == ["user", "user", "todo"]
    assert [(each.body, each.to) for each in mail.outbox] == [
        ("Hello Ada!", ["ada@example.com"])
    ]
    assert model("Todo").objects.get().user.name == "Ada"
    assert cache.get("users") is None
    assert not ParkedEvent.objects.exists()


@pytest.mark.parametrize("function", ["logged", "aside"])
def test_middleware(
    settings_of: Callable[..., StreamConfig],
    app: Callable[[str], ModuleType],
    caplog: pytest.LogCaptureFixture,
    function: str,
) -> None:
    config = settings_of(
        "configuration", MESSAGE_MIDDLEWARE=f"todos.middleware.{function}"
    )
    module = app("middleware")
    caplog.set_level(logging.INFO, "todos")
    with Listening(config) as listening:
        add_user("Ada")
        add_user("Bob")
        assert names(listening.wait_for(2)) == ["Ada", "Bob"]
    seen = [
        each.getMessage() for each in caplog.records if each.name == module.__name__
    ]
    assert seen == [
        *("Begin", "Relation", "Insert", "Commit"),
        *("Begin", "Insert", "Commit"),
    ]


def test_event(stream: StreamConfig) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute('TRUNCATE "user" RESTART IDENTITY CASCADE')
    with Listening(stream) as listening:
        add_user("Ada")
        model("User").objects.filter(name="Ada").update(name="Ada Lovelace")
        _, event = listening.wait_for(2)

    expected = json.loads(EXAMPLES["event"])
    actual = json.loads(event.as_json())
    assert set(actual) - set(expected) == {"types", "exact"}
    # These values differ each time, so only their shape is compared.
    for key in ("id", "lsn", "timestamp", "xid"):
        assert _shape(actual[key]) == _shape(expected[key])
        expected[key] = actual[key]
    for key in ("new_record", "old_record"):
        at = actual[key]["updated_at"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00", at)
        expected[key]["updated_at"] = at
    expected["source"]["version"] = __version__
    assert {key: actual[key] for key in expected} == expected
    assert Event.from_dict(actual).changes == event.changes


def _shape(value: object) -> str:
    return re.sub(r"[0-9A-F]+", "0", str(value))


class TestWebhooks:
    SECRET = "9da89f5f"

    @pytest.fixture
    def inboxes(
        self, stream: StreamConfig, environ: Callable[..., dict[str, str]]
    ) -> Iterator[list[Inbox]]:
        with Inbox() as one, Inbox() as two:
            environ(WEBHOOKS=f"{one.url} {two.url}", WEBHOOK_SIGNING_SECRET=self.SECRET)
            yield [one, two]

    def test_webhooks_are_sent_with_signature(
        self,
        stream: StreamConfig,
        app: Callable[[str], ModuleType],
        inboxes: list[Inbox],
    ) -> None:
        app("webhooks")
        with Listening(stream) as listening:
            ada = add_user("Ada")
            ada.delete()
            events = listening.wait_for(2)
            for inbox in inboxes:
                inbox.wait_for(2)

        for inbox in inboxes:
            bodies = inbox.wait_for(2)
            assert [body["type"] for body in bodies] == ["user.insert", "user.delete"]
            assert [body["id"] for body in bodies] == [event.id for event in events]
            for body, event in zip(bodies, events, strict=True):
                assert Event.from_dict(body["data"]).new_record == event.new_record
                assert body["timestamp"] == event.timestamp.isoformat()
            for headers, text in inbox.posted:
                key = self.SECRET.encode()
                digest = hmac.digest(key, text, hashlib.sha256)
                assert base64.b64decode(headers["Signature"]) == digest
                assert headers["Content-Type"] == "application/json"
                assert headers["User-Agent"].startswith("walex_django/")

    def test_rejected_webhook_is_retried_and_parked(
        self,
        settings_of: Callable[..., StreamConfig],
        app: Callable[[str], ModuleType],
        inboxes: list[Inbox],
    ) -> None:
        config = settings_of("configuration", MAX_RETRIES=1)
        first, second = inboxes
        second.status = 503
        app("webhooks")
        with Listening(config) as listening:
            add_user("Ada")
            (event,) = listening.wait_for(1)
            eventually(ParkedEvent.objects.exists, "parking")
            second.status = 204
            add_user("Bob")
            listening.wait_for(2)
            second.wait_for(3)
        assert [body["id"] for body in first.wait_for(3)][:2] == [event.id] * 2
        call_command("walex_replay", stdout=StringIO())
        assert second.wait_for(4)[3]["id"] == event.id
        assert not ParkedEvent.objects.exists()
