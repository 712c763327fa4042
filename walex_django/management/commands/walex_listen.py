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
from walex_django.management.streams import (
    CHECKS,
    add_stream_option,
    format_error,
    get_streams,
)
from walex_django.signals import ALL, TABLE_SIGNALS, post_db_message
from walex_django.subscriptions import Subscriptions
from walex_django.version import __version__

_MAX_TABLES = 10  # listed in the banner
_LOCAL = "127.0.0.1"


class Command(BaseCommand):
    help = (
        "Reads the changes of the streams in settings.WALEX from the WAL and sends them"
        " to the connected receivers. On the first CONTROL-C or SIGTERM, it finishes"
        " the current transaction and exits; on the second, it exits immediately."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--drain",
            action="store_true",
            help="Deliver everything that is in the WAL at the start, then exit.",
        )
        parser.add_argument(
            "--no-wait",
            action="store_false",
            dest="wait",
            help="Exit immediately, with status 1, if the server cannot be reached or"
            " another listener has the slot. --drain implies this.",
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="Restart when code changes, for development.",
        )
        parser.add_argument(
            "--metrics-port",
            type=arguments.port,
            metavar="PORT",
            help="Serve the listener's counters for Prometheus at this port, such as"
            " 9187. With 0, the system chooses a port.",
        )
        parser.add_argument(
            "--metrics-address",
            default=_LOCAL,
            metavar="ADDRESS",
            help="The address to serve the metrics at, such as 0.0.0.0 for all"
            f" interfaces. Default: {_LOCAL}, which only this machine can reach.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = get_streams(options["streams"])
        if options["drain"]:
            if options["reload"]:
                raise CommandError("--drain and --reload cannot be used together.")
            _require_durable(configs)
        self._verbosity = options["verbosity"]
        self._metrics_address = options["metrics_address"], options["metrics_port"]
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
            # The next code change may fix it.
            self.stderr.write(self.style.ERROR(str(error)))

    def _listen(
        self, configs: Sequence[StreamConfig], *, drain: bool, wait: bool
    ) -> None:
        self._starting = len(configs)
        self._draining = drain
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
            self._serve_metrics(listeners) as self._metrics_url,
            self._handle_signals(listeners),
            _frozen_objects(),
        ):
            listeners.start()
            listeners.join()
        if listeners.failures:
            raise CommandError(
                "\n".join(
                    f"{listener.config.name}: {format_error(error)}"
                    for listener, error in listeners.failures
                )
            )

    def _announce(self, start: Start) -> None:
        """Print the banner of a stream; runs in the stream's thread."""
        if self._verbosity == 0:
            return
        config = start.config
        kind = "durable" if config.durable_slot else "temporary"
        names = [str(table) for table in start.tables]
        if len(names) > _MAX_TABLES:
            names[_MAX_TABLES:] = [f"and {len(names) - _MAX_TABLES} more"]
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
        self._starting -= 1
        if not self._starting and self._metrics_url:
            lines.append(f"  metrics      {self._metrics_url}")
        if not self._starting and not self._draining:
            lines.append(f"  Quit with {_quit_command()}.")
        self.stdout.write("\n".join(lines))

    def _warn(self) -> None:
        warnings = list(_warnings())
        if warnings:
            # Settings changed at runtime may resolve the warnings. They are loaded in
            # a thread, so that this one is left without database connections.
            thread = threading.Thread(target=_load_changed_settings)
            thread.start()
            thread.join()
            warnings = list(_warnings())
        for text in warnings:
            self.stderr.write(self.style.WARNING(f"Warning: {text}"))

    @contextmanager
    def _serve_metrics(self, listeners: Listeners) -> Iterator[str]:
        """Serve metrics if a port is given, and yield their URL, which may be empty."""
        address, port = self._metrics_address
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
                    f"Metrics cannot be served at {address}, port {port}:"
                    f" {error.strerror}. Choose another --metrics-port or"
                    " --metrics-address."
                ) from error
            host = f"[{address}]" if ":" in address else address
            yield f"http://{host}:{port}/metrics"

    @contextmanager
    def _handle_signals(self, listeners: Listeners) -> Iterator[None]:
        """Stop the listeners on the first signal; the second has its default effect."""
        if threading.current_thread() is not threading.main_thread():
            # Django's autoreloader runs in the main thread and exits by sys.exit().
            atexit.register(_stop_at_exit, listeners)
            yield
            return

        def stop(number: int, frame: object) -> None:
            for handled in previous:
                signal.signal(handled, signal.SIG_DFL)
            listeners.stop()

        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _warnings() -> Iterator[str]:
    """Yield warnings about receivers that no stream calls, and missing receivers."""
    if not _count_receivers():
        yield (
            "No receiver is connected to a signal of walex_django.signals, and no"
            " handler is registered, so all changes will be read and discarded. If a"
            " receiver is a local function, connect it with weak=False."
        )
    configs = get_configs().values()
    if post_db_message.count() and not any(config.messages for config in configs):
        yield "Receivers are connected to post_db_message, but no stream has MESSAGES."
    subscriptions = [Subscriptions(config.subscriptions) for config in configs]
    for model in concrete_models():
        has_receivers = any(
            len(signal.receivers_of(model)) > len(signal.receivers_of(None))
            for signal in TABLE_SIGNALS
        )
        if has_receivers and not any(each.may_cover(model) for each in subscriptions):
            yield (
                f"Receivers are connected for {model._meta.label}, but it is not in the"
                " SUBSCRIPTIONS of any stream."
            )
    for handler in registry.handlers.values():
        for model in handler.look_up().models:
            if not any(each.may_cover(model) for each in subscriptions):
                yield (
                    f"{handler.where}: {model._meta.label} is not in the SUBSCRIPTIONS"
                    " of any stream."
                )


def _load_changed_settings() -> None:
    """Load the stored settings of all streams; errors are reported at their start."""
    with suppress(DatabaseError, ImproperlyConfigured):
        for config in get_configs().values():
            stored.refreshed(config)
    connections.close_all()


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Exclude the objects that exist by now from garbage collection."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _stop_at_exit(listeners: Listeners) -> None:
    listeners.stop()
    listeners.join(timeout=5)


def _require_durable(configs: Sequence[StreamConfig]) -> None:
    for config in configs:
        if not config.durable_slot:
            raise CommandError(
                f"{config.name}: --drain requires DURABLE_SLOT = True. A temporary slot"
                " has no changes from before the listener's start."
            )


def _count_receivers() -> int:
    return sum(signal.count() for signal in ALL) + len(registry.handlers)


def _quit_command() -> str:
    return "CTRL-BREAK" if sys.platform == "win32" else "CONTROL-C"
