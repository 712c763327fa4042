"""The site that the browser visits: its servers, listener and users."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg

from example_project.postgres import Postgres
from tests.copies import Copy, Original
from tests.process import Process, eventually

PASSWORD = "zoo-keeper"
USERS: dict[str, list[str]] = {
    "clerk": [],
    "viewer": ["view_stream", "view_parkedevent"],
}
"""Staff users besides the superuser, with their permissions."""

_MAKE_USERS = """
import json
from django.contrib.auth.models import Permission, User
User.objects.create_superuser("admin", "", {password!r})
for name, may in json.loads({users!r}).items():
    user = User.objects.create_user(name, password={password!r}, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=may))
"""


class Site:
    """
    A web server and a listener; two PostgreSQL servers run and one is unreachable.

    Attributes:
        env: The environment of the site's processes.
        url: The admin's URL.
    """

    def __init__(self, env: dict[str, str], port: int) -> None:
        self.env = env
        self.url = f"http://127.0.0.1:{port}/admin/"

    @property
    def streams(self) -> str:
        """The URL of the page of streams."""
        return f"{self.url}walex_django/stream/"

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement on the site's database; return the rows."""
        return execute(self.env["ZOO_DATABASE_URL"], statement, parameters)

    def run(self, *command: str) -> None:
        """Run a management command, which must succeed."""
        with Process(*command, env=self.env) as process:
            assert process.wait() == 0, process.output

    def make_orphan(self) -> None:
        """Create a slot that no stream uses."""
        self.execute(
            "SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')"
        )

    def logged(self) -> list[tuple[str, str]]:
        """Return the entries of the admin's log in order: object and change message."""
        return self.execute(
            "SELECT object_repr, change_message FROM django_admin_log ORDER BY id"
        )

    def slots(self) -> set[str]:
        """Return the names of the first server's slots."""
        rows = self.execute("SELECT slot_name FROM pg_replication_slots")
        return {name for (name,) in rows}

    def state(self) -> str:
        """Return the state that the first stream's listener reports."""
        rows = self.execute(
            "SELECT state FROM walex_django_listenerreport WHERE stream = 'default'"
            " ORDER BY updated_at DESC LIMIT 1"
        )
        return str(rows[0][0]) if rows else ""

    def lag(self) -> int:
        """Return the first stream's lag in bytes of WAL."""
        ((lag,),) = self.execute(
            "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint"
            " FROM pg_replication_slots WHERE slot_name = 'zoo_walex'"
        )
        return int(lag)

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Write keepers continuously inside the ``with`` block."""
        stopped = Event()

        def write() -> None:
            url = self.env["ZOO_DATABASE_URL"]
            with psycopg.connect(url, autocommit=True) as connection:
                while not stopped.wait(0.02):
                    connection.execute("INSERT INTO zoo_keeper (name) VALUES ('Ada')")

        writer = Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            stopped.set()
            writer.join()


def execute(
    url: str, statement: str, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Run a statement in a new session; return the rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def running(bin: Path | None, new: Original) -> Iterator[Site]:
    """
    Run the site.

    Args:
        bin: See `Postgres`.
        new: A server without content.
    """
    port = _free_port()
    with ExitStack() as stack:
        original = stack.enter_context(Copy(new, bin=bin))
        env = _prepared(original)
        original.stop("fast")
        first = stack.enter_context(Copy(original, bin=bin, settings={}))
        small = {"max_slot_wal_keep_size": "1MB"}
        other = stack.enter_context(Copy(original, bin=bin, settings=small))
        env |= {
            "ZOO_DATABASE_URL": first.url(),
            "ZOO_SECOND_URL": first.url("second"),
            "ZOO_LOST_URL": other.url(),
            "ZOO_AWAY_URL": "postgres://zoo:s3cret@127.0.0.1:1/zoo",
        }
        _lose_slot(other.url())
        site = Site(env, port)
        web = ("-m", "tests.browser.web")
        listener = ("walex_listen", "--stream=default")
        listening = stack.enter_context(Process(*listener, env=env))
        stack.enter_context(Process(str(port), program=web, env=env))
        eventually(lambda: _answers(port), "the web server")
        listening.wait_for("Quit with")
        yield site


def _prepared(server: Postgres) -> dict[str, str]:
    """Create tables, users and slots; return the environment."""
    execute(server.url(), "CREATE DATABASE second")
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
        "ZOO_DATABASE_URL": server.url(),
        "ZOO_SECOND_URL": server.url("second"),
    }
    users = _MAKE_USERS.format(password=PASSWORD, users=json.dumps(USERS))
    site = Site(env, 0)
    site.run("migrate", "--verbosity=0")
    site.run("migrate", "--verbosity=0", "--database=second")
    site.run("walex_setup", "--stream=default", "--stream=second")
    site.run("shell", "--command", users)
    site.make_orphan()
    return env


def _lose_slot(url: str) -> None:
    """Write until the slot of the third stream is lost."""
    execute(url, "SELECT pg_create_logical_replication_slot('lost_walex', 'pgoutput')")
    for slot in ("zoo_walex", "second_walex", "left_behind"):
        execute(url, "SELECT pg_drop_replication_slot(%s)", [slot])

    def lost() -> bool:
        execute(url, "INSERT INTO zoo_keeper (name) VALUES ('burnt')")
        execute(url, "SELECT pg_switch_wal()")
        execute(url, "CHECKPOINT")
        return execute(url, "SELECT wal_status FROM pg_replication_slots") == [
            ("lost",)
        ]

    eventually(lost, "the loss")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
