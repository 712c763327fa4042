from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django.conf.configs import get_configs
from walex_django.conf.stream import StreamConfig
from walex_django.management.streams import CHECKS, add_stream_option, chosen, reported
from walex_django.monitoring import reporter
from walex_django.provisioning import checkpoints
from walex_django.provisioning.plan import Step, slot_plan, teardown_plan
from walex_django.replication import server
from walex_django.replication.connection import Connection, connect


class Command(BaseCommand):
    help = (
        "Drops the slot and the publication of the streams in settings.WALEX. Changes"
        " that were not delivered yet are lost for these streams."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--slot",
            metavar="NAME",
            help="Drop this slot and nothing else: one that was left behind, which no"
            " stream in settings.WALEX has.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Print the SQL and change nothing."
        )
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="Do not ask.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        streams = chosen(options["streams"])
        if options["slot"]:
            self._drop_slot(options["slot"], streams, options)
            return
        for config in streams:
            with (
                reported(config),
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
                    reporter.forget(config.name)

    def _drop_slot(
        self, name: str, streams: list[StreamConfig], options: dict[str, Any]
    ) -> None:
        for config in get_configs().values():
            if config.slot_name == name:
                raise CommandError(
                    f'The slot "{name}" is that of the stream {config.name!r}. Run:'
                    f" python manage.py walex_teardown --stream {config.name}"
                )
        for config in streams:
            with (
                reported(config),
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
        connection: Connection,
        steps: list[Step],
        options: dict[str, Any],
    ) -> None:
        if options["dry_run"]:
            for step in steps:
                self.stdout.write(f"{step.statement.as_string(connection)};")
            return
        if options["interactive"]:
            self._ask([step.what for step in steps])
        for step in steps:
            connection.execute(step.statement)
            self.stdout.write(f"{config.name}: {step.what}")

    def _ask(self, what: list[str]) -> None:
        self.stdout.write(f"This will {', '.join(what)}.")
        try:
            answer = input('Type "yes" to go on: ')
        except EOFError:
            self.stdout.write()
            raise CommandError(
                "Nothing was dropped: nobody is there to answer. Add --no-input."
            ) from None
        if answer != "yes":
            raise CommandError("Nothing was dropped.")
