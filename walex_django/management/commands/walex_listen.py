from __future__ import annotations

import atexit
import gc
import signal
import sys
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import autoreload

from walex_django.listener import Listener, Listeners, Start
from walex_django.management.streams import add_stream_option, chosen, describe
from walex_django.signals import ALL
from walex_django.version import __version__


class Command(BaseCommand):
    help = (
        "Listens to the changes of the streams in settings.WALEX and sends them to the"
        " connected receivers. The first CONTROL-C or SIGTERM ends it after the"
        " transaction in hand, the second at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--drain",
            action="store_true",
            help="End when everything is delivered that was in the log at the start.",
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="Start again when the code changes, for development.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["reload"]:
            autoreload.run_with_reloader(self._listen, **options)
        else:
            self._listen(**options)

    def _listen(self, *, streams: list[str], drain: bool, **options: Any) -> None:
        listeners = Listeners(
            [
                Listener(config, drain=drain, started=self._announce)
                for config in chosen(streams)
            ]
        )
        if threading.current_thread() is threading.main_thread():
            self._obey_signals(listeners)
        else:
            # Django's reloader has the main thread, and leaves it by sys.exit().
            atexit.register(self._end, listeners)
        # What is loaded by now stays: the collector need not look at it again.
        gc.freeze()
        listeners.start()
        listeners.join()
        if listeners.failures:
            raise CommandError(
                "\n".join(
                    f"{listener.config.name}: {describe(error)}"
                    for listener, error in listeners.failures
                )
            )

    def _announce(self, start: Start) -> None:
        config = start.config
        kind = "durable" if config.durable_slot else "temporary"
        tables = ", ".join(map(str, start.tables)) or "no tables"
        receivers = sum(len(signal.receivers) for signal in ALL)
        self.stdout.write(
            f"walex_django {__version__}, stream {self.style.SUCCESS(config.name)} on"
            f" database {start.database} (PostgreSQL {start.server_version})\n"
            f"  slot         {config.slot_name} ({kind})\n"
            f"  publication  {', '.join(config.publications)}: {tables}\n"
            f"  receivers    {receivers}"
        )
        if not receivers:
            self.stdout.write(
                self.style.WARNING(
                    "  Nothing is connected to the signals of walex_django.signals:"
                    " all changes will be read and forgotten."
                )
            )
        self.stdout.write(f"  Quit with {_quit_command()}.")

    def _obey_signals(self, listeners: Listeners) -> None:
        def stop(number: int, frame: object) -> None:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
            listeners.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)

    def _end(self, listeners: Listeners) -> None:
        listeners.stop()
        listeners.join(timeout=5)


def _quit_command() -> str:
    return "CTRL-BREAK" if sys.platform == "win32" else "CONTROL-C"
