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
from walex_django.management.streams import CHECKS, add_stream_option, get_streams
from walex_django.monitoring import health, timed_inspection
from walex_django.monitoring.status import Overview, StreamState

_INTERVAL = 2.0  # seconds
_LIMITS = ("max_lag", "max_age", "max_parked")

# Terminal sequences: clear the screen and turn line wrapping off; turn it on again.
_BEGIN, _END = "\x1b[2J\x1b[?7l", "\x1b[?7h"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Command(BaseCommand):
    help = (
        "Shows the status of the streams: state, failing receivers, slot, listeners,"
        " lag, publication, parked calls, settings changed at runtime, any problems and"
        " the command that fixes each one, and the other slots on the same servers."
        " With --check, it"
        " only reports whether each stream is healthy, for probes."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--json", action="store_true", help="Print JSON for programs."
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=arguments.interval,
            const=_INTERVAL,
            metavar="SECONDS",
            help="Refresh every SECONDS, by default 2, until CONTROL-C.",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="Print one line per stream, and exit with status 1 if a stream is not"
            " healthy. A stream whose receivers fail is not healthy. A paused stream is"
            " healthy unless it exceeds a limit.",
        )
        parser.add_argument(
            "--max-lag",
            type=arguments.size,
            metavar="SIZE",
            help="With --check: the maximum amount of unprocessed WAL, such as 500MB or"
            " 1GB.",
        )
        parser.add_argument(
            "--max-age",
            type=arguments.age,
            metavar="AGE",
            help="With --check: the maximum time that a change may have been waiting,"
            " such as 60s or 5m.",
        )
        parser.add_argument(
            "--max-parked",
            type=arguments.count,
            metavar="N",
            help="With --check: the maximum number of parked calls; 0 for none at all.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = get_streams(options["streams"])
        limits = {key: options[key] for key in _LIMITS}
        if options["check"]:
            if options["watch"]:
                raise CommandError("--check and --watch cannot be used together.")
            self._check(configs, limits, as_json=options["json"])
            return
        for key, value in limits.items():
            if value is not None:
                raise CommandError(f"--{key.replace('_', '-')} requires --check.")
        self._text = StatusText(self.style, all_tables=options["verbosity"] > 1)
        if options["watch"]:
            self._watch(configs, options["watch"], as_json=options["json"])
            return
        overview = _read(configs)
        self.stdout.write(self._format(overview, as_json=options["json"]))
        unreachable = [
            stream.config.name
            for stream in overview.streams
            if stream.state == StreamState.UNREACHABLE
        ]
        if unreachable:
            raise CommandError(
                "The servers of these streams could not be reached:"
                f" {', '.join(unreachable)}."
            )

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
                    # Unlike the health view, the terminal may show the reason.
                    why = f" ({stream.reason})" if stream.reason else ""
                    text = self.style.ERROR(f"failing: {', '.join(reasons)}{why}")
                else:
                    text = self.style.SUCCESS("OK")
                self.stdout.write(f"{name}: {text}")
        if verdict["status"] != "ok":
            sys.exit(1)

    def _format(self, overview: Overview, *, as_json: bool, indent: int = 2) -> str:
        if not as_json:
            return "\n".join(self._text.lines(overview))
        data = {
            "streams": [stream.as_dict() for stream in overview.streams],
            "other_slots": [other.as_dict() for other in overview.others],
        }
        return json.dumps(data, cls=DjangoJSONEncoder, indent=indent or None)

    def _watch(
        self, configs: list[StreamConfig], interval: float, *, as_json: bool
    ) -> None:
        redraws = self.stdout.isatty() and not as_json
        try:
            with self._screen() if redraws else nullcontext():
                while True:
                    text = self._format(_read(configs), as_json=as_json, indent=0)
                    if redraws:
                        text = _page(text, interval)
                    self.stdout.write(text, ending="" if redraws else "\n")
                    self.stdout.flush()
                    time.sleep(interval)
        except KeyboardInterrupt:
            if redraws:
                self.stdout.write("")
        except BrokenPipeError:
            # The reader of the pipe has exited. Without this, the interpreter would
            # fail again when it flushes stdout at exit.
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


def _page(text: str, interval: float) -> str:
    """Return the text, cut to the terminal's height, as an update of its screen."""
    height = shutil.get_terminal_size().lines - 1
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"Every {interval:g} s: walex_status, {now}", ""]
    lines += text.split("\n")
    if len(lines) > height:
        rest = len(lines) - height + 1
        lines[height - 1 :] = [f"… and {rest} more lines"]
    return _HOME + "".join(f"{line}{_END_OF_LINE}\n" for line in lines) + _END_OF_SCREEN
