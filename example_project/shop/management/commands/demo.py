from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import environ
import psycopg
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.models import Model
from django.db.models.signals import post_save
from django.urls import reverse

from example_project.guard import end, guarded
from example_project.postgres import Postgres
from example_project.shop.traffic import Scene, scenes
from walex_django.conf.configs import get_config

SERVER = {"max_slot_wal_keep_size": "1GB"}  # no slot can fill the disk
MANAGE = Path(__file__).resolve().parents[4] / "manage.py"


class Command(BaseCommand):
    help = (
        "Demonstrates walex_django: starts a temporary PostgreSQL server, the shop's"
        " web server and a listener, and then changes data. Leaves nothing behind."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--seconds", type=float, help="Exit after this many seconds of changes."
        )
        parser.add_argument(
            "--port",
            type=int,
            default=8000,
            help="The port of the web server. Default: 8000. If it is taken, a free"
            " port is used.",
        )
        parser.add_argument(
            "--pause",
            type=float,
            default=1.5,
            help="Seconds between two changes. Default: 1.5.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        with ExitStack() as stack:
            self.stdout.write("Starting PostgreSQL …")
            try:
                postgres = stack.enter_context(Postgres(settings=SERVER))
            except RuntimeError as error:
                raise CommandError(str(error)) from error
            url = self._prepare(postgres)
            password = secrets.token_urlsafe(9)
            get_user_model()._default_manager.create_superuser("demo", "", password)
            port = _free_port(options["port"])
            environment = self._environment(url)
            self._start_web(stack, environment, port)
            self._start_listener(stack, environment)
            site = f"http://127.0.0.1:{port}"
            streams = reverse("admin:walex_django_stream_changelist")
            self.stdout.write(
                f"\n  Shop     {site}/\n"
                f"  Streams  {site}{streams}\n"
                f"  Admin    {site}/admin/  (user demo, password {password})\n"
                "  Quit with CONTROL-C.\n"
            )
            until = time.monotonic() + (options["seconds"] or float("inf"))
            for scene in scenes(url):
                if self._stop.is_set() or time.monotonic() > until:
                    break
                self._play(scene)
                self._stop.wait(min(options["pause"], max(0, until - time.monotonic())))
            self.stdout.write("\nStopping …")
            connections.close_all()

    def _prepare(self, postgres: Postgres) -> str:
        """Create and migrate the database, set up the stream, and return the URL."""
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        url = postgres.url("shop")
        connections["default"].settings_dict.update(environ.Env.db_url_config(url))
        self.stdout.write("Migrating …")
        call_command("migrate", verbosity=0)
        call_command("createcachetable", verbosity=0)
        call_command("walex_setup", stdout=self.stdout)
        return url

    def _environment(self, url: str) -> dict[str, str]:
        return {
            **os.environ,
            "DATABASE_URL": url,
            "DEBUG": "True",
            "SECRET_KEY": secrets.token_urlsafe(32),
            "SHOP_PRINT_EVENTS": "True",
            "SHOP_COLOR": str(self.style.SUCCESS("") != ""),
            "PYTHONUNBUFFERED": "1",
        }

    def _start_web(
        self, stack: ExitStack, environment: dict[str, str], port: int
    ) -> None:
        web = guarded(
            [
                sys.executable,
                str(MANAGE),
                "runserver",
                "--noreload",
                f"127.0.0.1:{port}",
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(end, web)
        while not self._stop.wait(0.05):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            if web.poll() is not None:
                raise CommandError("The web server did not start.")

    def _start_listener(self, stack: ExitStack, environment: dict[str, str]) -> None:
        self._listener = guarded(
            [sys.executable, str(MANAGE), "walex_listen"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        ready = threading.Event()
        reader = threading.Thread(target=self._relay, args=[ready], daemon=True)
        reader.start()
        stack.callback(reader.join, 10)
        stack.callback(end, self._listener)
        ready.wait()

    def _relay(self, ready: threading.Event) -> None:
        """Print the lines that the listener prints, as they arrive."""
        assert self._listener.stdout
        for line in self._listener.stdout:
            if "Quit with" in line:  # the last line of the banner; the demo has its own
                ready.set()
            else:
                label = self.style.MIGRATE_LABEL("walex")
                self.stdout.write(f"  {label}      {line.rstrip()}")
        ready.set()

    def _play(self, scene: Scene) -> None:
        """Make a change, print what `post_save` received, and wait for the listener."""
        saved: list[str] = []

        def record(sender: type[Model], instance: Model, **kwargs: Any) -> None:
            saved.append(f"{sender._meta.label} #{instance.pk}")

        self.stdout.write(f"\n{self.style.MIGRATE_HEADING(scene.title)}")
        post_save.connect(record)
        try:
            scene.play()
        finally:
            post_save.disconnect(record)
        received = ", ".join(saved) or self.style.ERROR("nothing")
        self.stdout.write(f"  post_save  {received}")
        # Twice, because the receivers make changes too, which are delivered as well.
        for _ in range(2):
            self._wait_for_listener()

    def _wait_for_listener(self) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            (position,) = cursor.fetchone()
            while not self._stop.is_set():
                cursor.execute(
                    "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots"
                    " WHERE slot_name = %s",
                    [position, get_config("default").slot_name],
                )
                if cursor.fetchone() == (True,):
                    return
                if self._listener.poll() is not None:
                    raise CommandError("The listener exited. Its output is above.")
                self._stop.wait(0.02)


def _free_port(port: int) -> int:
    """Return the port, or another free one if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
