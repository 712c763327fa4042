from __future__ import annotations

import atexit
import gc
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connections
from django.utils import autoreload

from walex_django.conf import stored
from walex_django.conf.configs import get_configs
from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import concrete_models
from walex_django.handlers import registry
from walex_django.listening.listener import Listener, Listeners
from walex_django.listening.start import Start
from walex_django.management import arguments
from walex_django.management.streams import CHECKS, add_stream_option, chosen, describe
from walex_django.signals import ALL, TABLE_SIGNALS, post_db_message
from walex_django.subscriptions import Subscriptions
from walex_django.version import __version__

_MOST_TABLES = 10  # named in the banner
_LOCAL = "127.0.0.1"


class Command(BaseCommand):
    help = (
        "Listens to the changes of the streams in settings.WALEX and sends them to the"
        " connected receivers. The first CONTROL-C or SIGTERM ends it after the"
        " transaction in hand, the second at once."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--drain",
            action="store_true",
            help="End when everything is delivered that was in the log at the start.",
        )
        parser.add_argument(
            "--no-wait",
            action="store_false",
            dest="wait",
            help="End at once, with status 1, when the server cannot be reached or"
            " another listener has the slot. --drain does so too.",
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="Start again when the code changes, for development.",
        )
        parser.add_argument(
            "--metrics-port",
            type=arguments.port,
            metavar="PORT",
            help="Serve what is counted at this port, such as 9187, for Prometheus.",
        )
        parser.add_argument(
            "--metrics-address",
            default=_LOCAL,
            metavar="ADDRESS",
            help=f"To serve it at. Default: {_LOCAL}, for this machine only.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = chosen(options["streams"])
        if options["drain"]:
            if options["reload"]:
                raise CommandError("--drain ends, and --reload does not: choose one.")
            _require_durable(configs)
        self._verbosity = options["verbosity"]
        self._metrics_at = options["metrics_address"], options["metrics_port"]
        if options["reload"]:
            autoreload.run_with_reloader(
                self._listen_until_reload, configs, wait=options["wait"]
            )
        else:
            self._listen(configs, drain=options["drain"], wait=options["wait"])

    def _listen_until_reload(
        self, configs: Sequence[StreamConfig], *, wait: bool
    ) -> None:
        try:
            self._listen(configs, drain=False, wait=wait)
        except CommandError as error:
            # Perhaps the next change of the code mends it.
            self.stderr.write(self.style.ERROR(str(error)))

    def _listen(
        self, configs: Sequence[StreamConfig], *, drain: bool, wait: bool
    ) -> None:
        self._to_start = len(configs)
        self._quits_by_itself = drain
        listeners = Listeners(
            [
                Listener(
                    config,
                    drain=drain,
                    wait=wait and not drain,
                    started=self._announce,
                )
                for config in configs
            ]
        )
        self._warn()
        with (
            self._metrics_served(listeners) as self._metrics_url,
            self._obeying_signals(listeners),
            _frozen(),
        ):
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
        """Print the banner of a stream; called in the stream's thread."""
        if self._verbosity == 0:
            return
        config = start.config
        kind = "durable" if config.durable_slot else "temporary"
        names = [str(table) for table in start.tables]
        if len(names) > _MOST_TABLES:
            names[_MOST_TABLES:] = [f"and {len(names) - _MOST_TABLES} more"]
        lines = [
            (
                f"walex_django {__version__}, stream {self.style.SUCCESS(config.name)}"
                f" on database {start.database} (PostgreSQL {start.server_version})"
            ),
            f"  slot         {config.slot_name} ({kind})",
            (
                f"  publication  {', '.join(config.publications)}:"
                f" {', '.join(names) or 'no tables'}"
            ),
            f"  receivers    {_count_receivers()}",
        ]
        self._to_start -= 1
        if not self._to_start and self._metrics_url:
            lines.append(f"  metrics      {self._metrics_url}")
        if not self._to_start and not self._quits_by_itself:
            lines.append(f"  Quit with {_quit_command()}.")
        self.stdout.write("\n".join(lines))

    def _warn(self) -> None:
        warnings = list(_warnings())
        if warnings:
            # Settings that were changed while the streams ran may say otherwise.
            # Its connections are of its own thread, and end with it.
            refresh = threading.Thread(target=_refresh)
            refresh.start()
            refresh.join()
            warnings = list(_warnings())
        for text in warnings:
            self.stderr.write(self.style.WARNING(f"Warning: {text}"))

    @contextmanager
    def _metrics_served(self, listeners: Listeners) -> Iterator[str]:
        """Serve what is counted, if that is wanted; yields where."""
        address, port = self._metrics_at
        if port is None:
            yield ""
            return
        try:
            from walex_django.monitoring import metrics
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        with ExitStack() as stack:
            try:
                port = stack.enter_context(
                    metrics.served(listeners.reports, address=address, port=port)
                )
            except OSError as error:
                raise CommandError(
                    f"Metrics cannot be served at port {port} of {address}:"
                    f" {error.strerror}. Choose another --metrics-port or"
                    " --metrics-address."
                ) from error
            host = f"[{address}]" if ":" in address else address
            yield f"http://{host}:{port}/metrics"

    @contextmanager
    def _obeying_signals(self, listeners: Listeners) -> Iterator[None]:
        """Let the first signal stop the listeners, and the second have its way."""
        if threading.current_thread() is not threading.main_thread():
            # Django's reloader has the main thread, and leaves it by sys.exit().
            atexit.register(_end, listeners)
            yield
            return

        def stop(number: int, frame: object) -> None:
            for each in before:
                signal.signal(each, signal.SIG_DFL)
            listeners.stop()

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _warnings() -> Iterator[str]:
    """Tell of receivers that will never be called, and of changes without any."""
    if not _count_receivers():
        yield (
            "No receiver is connected to the signals of walex_django.signals, and"
            " no handler is registered: all changes will be read and forgotten. A"
            " receiver that is a local function needs connect(…, weak=False)."
        )
    configs = get_configs().values()
    if post_db_message.count() and not any(config.messages for config in configs):
        yield "Receivers wait for post_db_message, and no stream has MESSAGES."
    subscriptions = [Subscriptions(config.subscriptions) for config in configs]
    for model in concrete_models():
        waiting = any(
            len(signal.receivers_of(model)) > len(signal.receivers_of(None))
            for signal in TABLE_SIGNALS
        )
        if waiting and not any(each.may_cover(model) for each in subscriptions):
            yield (
                f"Receivers wait for {model._meta.label}, which is in the"
                " SUBSCRIPTIONS of no stream."
            )
    for handler in registry.handlers.values():
        for model in handler.look_up().models:
            if not any(each.may_cover(model) for each in subscriptions):
                yield (
                    f"{handler.where}, waits for {model._meta.label}, which is in"
                    " the SUBSCRIPTIONS of no stream."
                )


def _refresh() -> None:
    """Take over what is kept of all streams; what is wrong, their start tells."""
    with suppress(DatabaseError, ImproperlyConfigured):
        for config in get_configs().values():
            stored.refreshed(config)
    connections.close_all()


@contextmanager
def _frozen() -> Iterator[None]:
    """Tell the garbage collector that what is loaded by now stays."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _end(listeners: Listeners) -> None:
    listeners.stop()
    listeners.join(timeout=5)


def _require_durable(configs: Sequence[StreamConfig]) -> None:
    for config in configs:
        if not config.durable_slot:
            raise CommandError(
                f"{config.name}: --drain needs DURABLE_SLOT = True: before its start a"
                " temporary slot keeps nothing."
            )


def _count_receivers() -> int:
    return sum(signal.count() for signal in ALL) + len(registry.handlers)


def _quit_command() -> str:
    return "CTRL-BREAK" if sys.platform == "win32" else "CONTROL-C"
