from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from walex_django.conf.stream import StreamConfig
from walex_django.management import arguments
from walex_django.management.status_text import StatusText
from walex_django.management.streams import CHECKS, add_stream_option, chosen
from walex_django.monitoring import health, timed_inspection
from walex_django.monitoring.status import Overview, StreamState

_INTERVAL = 2.0  # seconds

# Of the terminal: an empty screen, no wrapped lines; and back.
_BEGIN, _END = "\x1b[2J\x1b[?7l", "\x1b[?7h"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Command(BaseCommand):
    help = (
        "Shows how the streams are: state, slot, listeners, lag, publication, parked"
        " calls, changed settings, what is wrong, and the other slots of their"
        " servers. With --check: whether they do what they should, for probes."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument("--json", action="store_true", help="For programs.")
        parser.add_argument(
            "--watch",
            nargs="?",
            type=arguments.interval,
            const=_INTERVAL,
            metavar="SECONDS",
            help="Show it again and again, every 2 seconds, until CONTROL-C.",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="One line for each stream; status 1 if one does not do what it"
            " should. A paused one does, unless a limit says otherwise.",
        )
        parser.add_argument(
            "--max-lag",
            type=arguments.size,
            metavar="SIZE",
            help="With --check: log that may be not done, such as 500MB or 1GB.",
        )
        parser.add_argument(
            "--max-age",
            type=arguments.age,
            metavar="AGE",
            help="With --check: how long a change may wait, such as 60s or 5m.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = chosen(options["streams"])
        limits = {key: options[key] for key in ("max_lag", "max_age")}
        if options["check"]:
            if options["watch"]:
                raise CommandError("--check ends, and --watch does not: choose one.")
            self._check(configs, limits, as_json=options["json"])
            return
        for key, value in limits.items():
            if value is not None:
                raise CommandError(f"--{key.replace('_', '-')} needs --check.")
        self._text = StatusText(self.style, all_tables=options["verbosity"] > 1)
        if options["watch"]:
            self._watch(configs, options["watch"], as_json=options["json"])
            return
        overview = _read(configs)
        self.stdout.write(self._told(overview, as_json=options["json"]))
        away = [
            stream.config.name
            for stream in overview.streams
            if stream.state == StreamState.UNREACHABLE
        ]
        if away:
            raise CommandError(f"Not all servers could be asked: {', '.join(away)}.")

    def _check(
        self, configs: list[StreamConfig], limits: dict[str, Any], *, as_json: bool
    ) -> None:
        streams = _read(configs, diagnose=False).streams
        verdict = health.verdict(streams, **limits)
        if as_json:
            self.stdout.write(json.dumps(verdict))
        else:
            for stream in streams:
                name = stream.config.name
                if reasons := verdict["streams"][name]:
                    # Here, unlike in the view, those listen who may know.
                    why = f" ({stream.reason})" if stream.reason else ""
                    told = self.style.ERROR(f"failing: {', '.join(reasons)}{why}")
                else:
                    told = self.style.SUCCESS("OK")
                self.stdout.write(f"{name}: {told}")
        if verdict["status"] != "ok":
            sys.exit(1)

    def _told(self, overview: Overview, *, as_json: bool, indent: int = 2) -> str:
        if not as_json:
            return "\n".join(self._text.lines(overview))
        told = {
            "streams": [each.as_dict() for each in overview.streams],
            "other_slots": [each.as_dict() for each in overview.others],
        }
        return json.dumps(told, cls=DjangoJSONEncoder, indent=indent or None)

    def _watch(
        self, configs: list[StreamConfig], interval: float, *, as_json: bool
    ) -> None:
        redraws = self.stdout.isatty() and not as_json
        try:
            with self._screen() if redraws else nullcontext():
                while True:
                    told = self._told(_read(configs), as_json=as_json, indent=0)
                    if redraws:
                        told = _page(told, interval)
                    self.stdout.write(told, ending="" if redraws else "\n")
                    self.stdout.flush()
                    time.sleep(interval)
        except KeyboardInterrupt:
            if redraws:
                self.stdout.write("")
        except BrokenPipeError:
            # Nobody reads any more; nor shall the interpreter try to, at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    @contextmanager
    def _screen(self) -> Iterator[None]:
        self.stdout.write(_BEGIN, ending="")
        try:
            yield
        finally:
            self.stdout.write(_END, ending="")


def _read(configs: list[StreamConfig], *, diagnose: bool = True) -> Overview:
    try:
        return timed_inspection.inspect_all(configs, diagnose=diagnose)
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error


def _page(told: str, interval: float) -> str:
    """Return what replaces the terminal's page."""
    room = shutil.get_terminal_size().lines - 1
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"Every {interval:g} s: walex_status, {now}", ""]
    lines += told.split("\n")
    if len(lines) > room:
        rest = len(lines) - room + 1
        lines[room - 1 :] = [f"… and {rest} more lines"]
    return _HOME + "".join(f"{line}{_END_OF_LINE}\n" for line in lines) + _END_OF_SCREEN
