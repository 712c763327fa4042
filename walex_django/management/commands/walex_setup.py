from __future__ import annotations

import math
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django import checkpoints, runtime
from walex_django.management.streams import CHECKS, add_stream_option, chosen, reported
from walex_django.plan import Step, setup_plan, subscribed_tables
from walex_django.replication import publications, server, slots
from walex_django.replication.connection import Connection, connect
from walex_django.stream_config import StreamConfig


class Command(BaseCommand):
    help = (
        "Creates what the streams in settings.WALEX need in the database: first the"
        " publication, then, where DURABLE_SLOT is set, the slot. What is there already"
        " stays as it is."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--recreate-slot",
            action="store_true",
            help="Drop the slot and create it anew at the end of the log: what it had"
            " still to deliver is lost. Accepts that a slot is gone, or was made again"
            " by somebody else; that one is kept.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Print the SQL and change nothing."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = chosen(options["streams"])
        if options["recreate_slot"] and len(configs) > 1 and not options["streams"]:
            raise CommandError(
                "--recreate-slot drops what a slot has still to deliver. Say of which"
                " stream, with --stream NAME."
            )
        for written in configs:
            with (
                reported(written),
                connect(written.connection_parameters()) as connection,
            ):
                config = runtime.refreshed(written)
                # A slot is created when all who are writing have ended.
                connection.patience = math.inf
                recreate = options["recreate_slot"] and config.durable_slot
                if options["dry_run"]:
                    steps = setup_plan(config, connection, recreate_slot=recreate)
                    self._print(steps)
                    if recreate and not any(step.makes_slot for step in steps):
                        self.stdout.write(f"-- the slot {config.slot_name} is kept")
                else:
                    server.prepared_database(connection)
                    self._set_up(config, connection, recreate_slot=recreate)
                self._warn(config, connection)

    def _print(self, steps: list[Step]) -> None:
        for step in steps:
            place = " -- with psql 'replication=database'" if step.replication else ""
            self.stdout.write(f"{step.statement.as_string()};{place}")

    def _set_up(
        self, config: StreamConfig, connection: Connection, *, recreate_slot: bool
    ) -> None:
        steps = setup_plan(config, connection, recreate_slot=recreate_slot)
        for step in steps:
            if step.replication:
                with connect(config.connection_parameters(), replication=True) as other:
                    other.execute(step.statement)
            else:
                connection.execute(step.statement)
            self.stdout.write(f"{config.name}: {step.what}")
        if recreate_slot or any(step.makes_slot for step in steps):
            start = self._remember(config, connection)
            self.stdout.write(f"{config.name}: delivers what is written from {start}")
        elif not steps:
            self.stdout.write(f"{config.name}: nothing to do")

    def _remember(self, config: StreamConfig, connection: Connection) -> str:
        """Note where the slot starts; return that."""
        slot = slots.find(connection, config.slot_name)
        assert slot is not None
        system, _ = server.identity(connection)
        checkpoints.note(config, system, slot)
        return str(slot.confirmed_lsn)

    def _warn(self, config: StreamConfig, connection: Connection) -> None:
        tables = subscribed_tables(config, connection)
        for table in publications.without_identity(connection, tables):
            mend = publications.full_identity_statement(table)
            self.stderr.write(
                self.style.WARNING(
                    f"Warning: {table} has no primary key, and once it is"
                    " published PostgreSQL refuses UPDATE and DELETE on it."
                    f" Run: {mend.as_string()};"
                )
            )
