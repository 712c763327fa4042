from __future__ import annotations

import math
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from walex_django.conf import receivers_database, stored
from walex_django.conf.stream import StreamConfig
from walex_django.diagnosis import published_tables
from walex_django.diagnosis.problems import LEFT_BEHIND, find_problems
from walex_django.management.arguments import seconds
from walex_django.management.streams import (
    CHECKS,
    add_stream_option,
    command_errors,
    get_streams,
    interruptible,
)
from walex_django.provisioning import (
    checkpoints,
    gaps,
    new_publications,
    replica_identity,
)
from walex_django.provisioning.execution import await_writers, execute
from walex_django.provisioning.named_tables import subscribed_tables
from walex_django.provisioning.plan import Step, setup_plan
from walex_django.replication import server, slots
from walex_django.replication.connection import (
    BoundedConnection,
    Connection,
    connect,
)


class Command(BaseCommand):
    help = (
        "Creates what the streams in settings.WALEX lack in the database: the replica"
        " identities of REPLICA_IDENTITY, the publication and its tables, and, with"
        " DURABLE_SLOT, the slot. If nothing is missing, it changes nothing."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--recreate-slot",
            action="store_true",
            help="Drop the slot and create a new one at the current end of the WAL."
            " Changes that the old slot had not delivered are lost. A slot that was"
            " recreated outside of walex_setup is accepted and kept.",
        )
        parser.add_argument(
            "--prune",
            action="store_true",
            help="Remove tables that no stream subscribes to from the publications.",
        )
        parser.add_argument(
            "--timeout",
            type=seconds,
            default=math.inf,
            metavar="SECONDS",
            help="The maximum time to wait for running transactions. Default: no"
            " limit.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print the SQL instead of running it.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = get_streams(options["streams"])
        if options["recreate_slot"] and len(configs) > 1 and not options["streams"]:
            raise CommandError(
                "--recreate-slot discards the changes that a slot has not delivered"
                " yet. Name the stream with --stream NAME."
            )
        for initial in configs:
            with (
                command_errors(initial),
                interruptible(),
                connect(initial.connection_parameters()) as connection,
            ):
                config = stored.refreshed(initial)
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
                        config,
                        connection,
                        prune=prune,
                        recreate_slot=recreate,
                        timeout=options["timeout"],
                    )
                self._warn(config, connection, planned=options["dry_run"])

    def _print(self, steps: list[Step]) -> None:
        for step in steps:
            note = " -- in psql 'replication=database'" if step.replication else ""
            self.stdout.write(f"{step.statement.as_string()};{note}")

    def _set_up(
        self,
        config: StreamConfig,
        connection: BoundedConnection,
        *,
        prune: bool,
        recreate_slot: bool,
        timeout: float,
    ) -> None:
        def report(text: str) -> None:
            self.stdout.write(f"{config.name}: {text}")
            self.stdout.flush()

        steps = setup_plan(config, connection, prune=prune, recreate_slot=recreate_slot)
        makes_slot = any(step.makes_slot for step in steps)
        has_slot = slots.find(connection, config.slot_name) is not None
        for step in steps:
            execute(config, connection, step, timeout=timeout, report=report)
            report(step.what)
            # A new slot waits for all transactions itself, and starts after them.
            if step.publishes and has_slot and not makes_slot:
                await_writers(
                    connection, step.publishes, timeout=timeout, report=report
                )
        if not makes_slot:
            created = [step.creates for step in steps if step.creates]
            new_publications.pass_creation(
                config, connection, created, timeout=timeout, report=report
            )
        if recreate_slot or makes_slot:
            start = self._record_start(config, connection)
            self.stdout.write(f"{config.name}: delivers changes from LSN {start} on")
        elif not steps:
            self.stdout.write(f"{config.name}: nothing to do")

    def _record_start(self, config: StreamConfig, connection: Connection) -> str:
        """Save the LSN at which the slot starts as the checkpoint, and return it."""
        alias = receivers_database.database()
        if not connections[alias].in_atomic_block:
            # The creation of the slot may have taken longer than idle_session_timeout.
            connections[alias].close()
        slot = slots.find(connection, config.slot_name)
        assert slot is not None
        system, _ = server.identity(connection)
        checkpoints.note(config, system, slot)
        gaps.settle(system, config.slot_name)
        return str(slot.confirmed_lsn)

    def _warn(
        self, config: StreamConfig, connection: Connection, *, planned: bool
    ) -> None:
        """Warn of problems that remain, or that will remain after the planned steps."""
        pending = replica_identity.differences(config, connection)
        changed = {difference.part for difference in pending}
        tables = published_tables.table_identities(
            config, connection, subscribed_tables(config, connection)
        )
        problems = published_tables.without_key(
            config,
            [
                table
                for table in tables
                if changed.isdisjoint(identity.part for identity in table.identities)
            ],
        )
        if not planned:
            problems += [
                problem
                for problem in find_problems(config, connection)
                if problem.id.startswith("W") and problem.id not in _NOT_REPEATED
            ]
        for problem in problems:
            warning = f"Warning: {problem.message} {problem.hint}"
            self.stderr.write(self.style.WARNING(warning))


# Missing keys are reported above, also before the tables are published. Slots of other
# streams are not a matter of this command.
_NOT_REPEATED = {published_tables.NO_KEY, LEFT_BEHIND}
