from __future__ import annotations

import math
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.diagnosis import published_tables
from walex_django.diagnosis.problems import LEFT_BEHIND, find_problems
from walex_django.management.streams import CHECKS, add_stream_option, chosen, reported
from walex_django.provisioning import checkpoints, replica_identity
from walex_django.provisioning.named_tables import subscribed_tables
from walex_django.provisioning.plan import Step, setup_plan
from walex_django.replication import server, slots
from walex_django.replication.connection import Connection, connect


class Command(BaseCommand):
    help = (
        "Creates what the streams in settings.WALEX need in the database: what tables"
        " tell of their old rows, as REPLICA_IDENTITY has it, the publication, then,"
        " where DURABLE_SLOT is set, the slot. What is right already stays as it is."
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
            "--prune",
            action="store_true",
            help="Take tables out of the publications that no stream wants.",
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
                config = stored.refreshed(written)
                # A slot is created when all who are writing have ended.
                connection.answer_timeout = math.inf
                recreate = options["recreate_slot"] and config.durable_slot
                prune = options["prune"]
                if options["dry_run"]:
                    steps = setup_plan(
                        config, connection, prune=prune, recreate_slot=recreate
                    )
                    self._print(steps)
                    if recreate and not any(step.makes_slot for step in steps):
                        self.stdout.write(f"-- the slot {config.slot_name} is kept")
                else:
                    server.prepared_database(connection)
                    self._set_up(
                        config, connection, prune=prune, recreate_slot=recreate
                    )
                self._warn(config, connection, planned=options["dry_run"])

    def _print(self, steps: list[Step]) -> None:
        for step in steps:
            place = " -- with psql 'replication=database'" if step.replication else ""
            self.stdout.write(f"{step.statement.as_string()};{place}")

    def _set_up(
        self,
        config: StreamConfig,
        connection: Connection,
        *,
        prune: bool,
        recreate_slot: bool,
    ) -> None:
        steps = setup_plan(config, connection, prune=prune, recreate_slot=recreate_slot)
        for step in steps:
            if step.makes_slot:
                server.require_free_slot(server.read(connection))
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

    def _warn(
        self, config: StreamConfig, connection: Connection, *, planned: bool
    ) -> None:
        """Tell what is still wrong, or will be once it is done as planned."""
        wanted = replica_identity.differences(config, connection)
        changed = {each.part for each in wanted}
        rows = published_tables.rows_of(
            config, connection, subscribed_tables(config, connection)
        )
        wrong = published_tables.without_key(
            config,
            [
                each
                for each in rows
                if changed.isdisjoint(identity.part for identity in each.identities)
            ],
        )
        if not planned:
            wrong += [
                problem
                for problem in find_problems(config, connection)
                if problem.id.startswith("W") and problem.id not in _NOT_TOLD
            ]
        for each in wrong:
            warning = f"Warning: {each.message} {each.hint}"
            self.stderr.write(self.style.WARNING(warning))


# That of keys is told before the tables are published, too.
_NOT_TOLD = {published_tables.NO_KEY, LEFT_BEHIND}
