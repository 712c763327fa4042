from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from walex_django.management.streams import add_stream_option, chosen, reported
from walex_django.plan import setup_plan, subscribed_tables
from walex_django.replication import publications
from walex_django.replication.connection import connect
from walex_django.replication.server import prepared_database


class Command(BaseCommand):
    help = (
        "Creates what the streams in settings.WALEX need in the database: first the"
        " publication, then, where DURABLE_SLOT is set, the slot. What is there already"
        " stays as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="Print the SQL and change nothing."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for config in chosen(options["streams"]):
            with (
                reported(config),
                connect(config.connection_parameters()) as connection,
            ):
                if not options["dry_run"]:
                    prepared_database(connection)
                steps = setup_plan(config, connection)
                for step in steps:
                    if options["dry_run"]:
                        self.stdout.write(f"{step.statement.as_string(connection)};")
                    else:
                        connection.execute(step.statement)
                        self.stdout.write(f"{config.name}: {step.what}")
                if not steps:
                    self.stdout.write(f"{config.name}: nothing to do")
                tables = subscribed_tables(config, connection)
                for table in publications.without_identity(connection, tables):
                    mend = publications.full_identity_statement(table)
                    self.stderr.write(
                        self.style.WARNING(
                            f"Warning: {table} has no primary key, and once it is"
                            " published PostgreSQL refuses UPDATE and DELETE on it."
                            f" Run: {mend.as_string(connection)};"
                        )
                    )
