from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django.conf.configs import get_configs
from walex_django.conf.stream import StreamConfig
from walex_django.management.streams import (
    CHECKS,
    add_stream_option,
    command_errors,
    get_streams,
    interruptible,
)
from walex_django.monitoring import reporter
from walex_django.provisioning import checkpoints, gaps
from walex_django.provisioning.execution import execute
from walex_django.provisioning.plan import Step, slot_plan, teardown_plan
from walex_django.replication import server
from walex_django.replication.connection import BoundedConnection, connect


class Command(BaseCommand):
    help = (
        "Drops the slots and publications of the streams in settings.WALEX. Changes"
        " that have not been delivered yet are lost for these streams."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--slot",
            metavar="NAME",
            help="Drop only this slot, which must not belong to a stream of"
            " settings.WALEX. Use it for a slot that was left behind.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print the SQL instead of running it.",
        )
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="Do not ask for confirmation.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        streams = get_streams(options["streams"])
        if options["slot"]:
            self._drop_slot(options["slot"], streams, options)
            return
        for config in streams:
            with (
                command_errors(config),
                interruptible(),
                connect(config.connection_parameters()) as connection,
            ):
                steps = teardown_plan(config, connection, streams=streams)
                if not steps:
                    self.stdout.write(f"{config.name}: nothing to do")
                else:
                    self._run(config, connection, steps, options)
                if not options["dry_run"]:
                    system, _ = server.identity(connection)
                    checkpoints.forget(system, config.slot_name)
                    gaps.forget(config.name)
                    reporter.forget(config.name)

    def _drop_slot(
        self, name: str, streams: list[StreamConfig], options: dict[str, Any]
    ) -> None:
        for config in get_configs().values():
            if config.slot_name == name:
                raise CommandError(
                    f'The slot "{name}" belongs to the stream {config.name!r}. Run:'
                    f" python manage.py walex_teardown --stream {config.name}"
                )
        for config in streams:
            with (
                command_errors(config),
                interruptible(),
                connect(config.connection_parameters()) as connection,
            ):
                steps = slot_plan(name, connection)
                if steps:
                    self._run(config, connection, steps, options)
                    if not options["dry_run"]:
                        system, _ = server.identity(connection)
                        checkpoints.forget(system, name)
                    return
        raise CommandError(f'The slot "{name}" does not exist. Nothing was dropped.')

    def _run(
        self,
        config: StreamConfig,
        connection: BoundedConnection,
        steps: list[Step],
        options: dict[str, Any],
    ) -> None:
        if options["dry_run"]:
            for step in steps:
                self.stdout.write(f"{step.statement.as_string(connection)};")
            return
        if options["interactive"]:
            self._confirm([step.what for step in steps])
        for step in steps:
            execute(config, connection, step)
            self.stdout.write(f"{config.name}: {step.what}")

    def _confirm(self, actions: list[str]) -> None:
        self.stdout.write(f"This will {', '.join(actions)}.")
        try:
            answer = input('Type "yes" to continue: ')
        except EOFError:
            self.stdout.write()
            raise CommandError(
                "Nothing was dropped: standard input gave no answer. Add --no-input to"
                " skip the confirmation."
            ) from None
        if answer != "yes":
            raise CommandError("Nothing was dropped.")
