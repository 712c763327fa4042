from __future__ import annotations

import getpass
import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django.conf import stored
from walex_django.conf.stream import StreamConfig
from walex_django.management.status_text import format_time
from walex_django.management.streams import (
    CHECKS,
    add_stream_option,
    command_errors,
    get_streams,
)
from walex_django.models import Gap
from walex_django.provisioning import gaps
from walex_django.replication import publications, server, skipping, slots
from walex_django.replication.connection import connect
from walex_django.replication.errors import DecodingFailed


class Command(BaseCommand):
    help = (
        "Skips the one transaction that the server cannot send, after a listener has"
        " recorded it and exited, and stores it as a gap. All other transactions are"
        " delivered."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="Do not ask for confirmation.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = get_streams(options["streams"])
        found = False
        for initial in configs:
            with command_errors(initial):
                config = stored.refreshed(initial)
                if gap := self._pending(config):
                    found = True
                    self._skip(config, gap, interactive=options["interactive"])
        if not found:
            raise CommandError(
                f"{', '.join(config.name for config in configs)}: nothing to skip. No"
                " listener has recorded a transaction that the server cannot send."
            )

    def _pending(self, config: StreamConfig) -> Gap | None:
        """Return the gap that keeps a stream from being read, after some checks."""
        with connect(config.connection_parameters()) as connection:
            system, database = server.identity(connection)
            gap = gaps.pending(system, config.slot_name)
            if gap:
                publications.require(connection, config.publications)
                slots.check(
                    slots.require(connection, config.slot_name),
                    database=database,
                    durable=True,
                )
        return gap

    def _skip(self, config: StreamConfig, gap: Gap, *, interactive: bool) -> None:
        place = (
            config.connection_parameters(),
            config.slot_name,
            config.publications,
        )
        try:
            failure = skipping.find_failure(*place)
        except skipping.UndeliveredTransactions as error:
            raise CommandError(
                f"{config.name}: {error} Run: python manage.py walex_listen --stream"
                f" {config.name}"
            ) from error
        if failure is None or not _is_recorded(failure, gap):
            gaps.settle(gap.system_identifier, gap.slot_name)
            raise CommandError(
                f"{config.name}: nothing was skipped: the server no longer fails at the"
                " recorded change. Run: python manage.py walex_listen --stream"
                f" {config.name}"
            )
        if interactive:
            self._confirm(config, gap)
        by = _user()
        try:
            commit = skipping.skip(
                *place,
                failure,
                before_move=lambda position: gaps.mark_skipped(gap, position, by=by),
            )
        except BaseException:
            gaps.mark_pending(gap)
            raise
        self.stdout.write(
            f"{config.name}: skipped the transaction with its COMMIT at {commit}. To"
            f" continue, run: python manage.py walex_listen --stream {config.name}"
        )

    def _confirm(self, config: StreamConfig, gap: Gap) -> None:
        self.stdout.write(
            f"This skips one transaction of the stream {config.name}. Its changes will"
            " not be delivered."
        )
        self.stdout.write(f"  transaction  {gap.place}")
        if gap.committed_at:
            self.stdout.write(f"  committed    {format_time(gap.committed_at)}")
        if gap.table:
            self.stdout.write(f"  table        {gap.table}")
        self.stdout.write(f"  error        {gap.error}")
        try:
            answer = input('Type "yes" to continue: ')
        except EOFError:
            self.stdout.write()
            raise CommandError(
                "Nothing was skipped: standard input gave no answer. Add --no-input to"
                " skip the confirmation."
            ) from None
        if answer != "yes":
            raise CommandError("Nothing was skipped.")


def _is_recorded(failure: DecodingFailed, gap: Gap) -> bool:
    if failure.position or gap.position:
        return failure.position == gap.position
    return failure.error == gap.error


def _user() -> str:
    """Return the user of this process, for the record."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user ID without a name
        return socket.gethostname()
