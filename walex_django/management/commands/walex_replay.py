from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db.models import Q
from django.utils import timezone

from walex_django.conf.receivers_database import known_error
from walex_django.delivery.parking import describe
from walex_django.delivery.replay import replay
from walex_django.management import arguments
from walex_django.management.streams import (
    CHECKS,
    add_stream_option,
    format_error,
    get_streams,
)
from walex_django.models import ParkedEvent
from walex_django.monitoring.parked_display import ParkedDisplay


class Command(BaseCommand):
    help = (
        "Calls receivers again for events that were parked after the last retry, in"
        " the order in which they were parked. Calls that succeed are removed; calls"
        " that fail again stay parked, with their new error. Without options, all"
        " parked events are replayed."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument(
            "--receiver",
            action="append",
            metavar="NAME",
            help="The dotted name of a receiver, or the end of it. May be repeated.",
        )
        parser.add_argument(
            "--table",
            action="append",
            metavar="SCHEMA.TABLE",
            help="Only events of this table. May be repeated.",
        )
        parser.add_argument(
            "--id",
            action="append",
            metavar="ID",
            help="Only the event with this id, such as 0/16B3748:3. May be repeated.",
        )
        parser.add_argument(
            "--older-than",
            type=arguments.age,
            metavar="AGE",
            help="Only events parked longer ago than this: 30s, 90m, 2h, 1d.",
        )
        parser.add_argument(
            "--newer-than",
            type=arguments.age,
            metavar="AGE",
            help="Only events parked within this time: 30s, 90m, 2h, 1d.",
        )
        parser.add_argument(
            "--dispatch-uid",
            metavar="UID",
            help="For calls parked without a dispatch_uid: the dispatch_uid of the"
            " receiver to call.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="List the parked events without calling any receiver.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        get_streams(options["streams"])
        try:
            self._replay(**options)
        except DatabaseError as error:
            known = known_error(error)
            raise CommandError(format_error(known or error)) from error

    def _replay(self, **options: Any) -> None:
        parked_events = ParkedEvent.objects.filter(_condition(**options))
        display = ParkedDisplay()
        if options["dry_run"]:
            for parked in parked_events:
                self._print(parked, display.mask(parked)(parked.error))
            self.stdout.write(f"{parked_events.count()} parked")
            return
        succeeded = failed = 0
        for parked, error in replay(
            parked_events, dispatch_uid=options["dispatch_uid"]
        ):
            if error is None:
                succeeded += 1
            else:
                failed += 1
                text = display.mask(parked)(describe(error))
                self._print(parked, self.style.ERROR(text))
        self.stdout.write(f"{succeeded} delivered, {failed} failed again")
        if failed:
            raise CommandError("The calls that failed stay parked.")

    def _print(self, parked: ParkedEvent, error: str) -> None:
        table = f" of {parked.table}" if parked.table else ""
        self.stdout.write(f"{parked.event_id}{table} for {parked.receiver}: {error}")


def _condition(
    *,
    streams: list[str],
    receiver: list[str] | None,
    table: list[str] | None,
    id: list[str] | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
    **options: Any,
) -> Q:
    condition = Q()
    if streams:
        condition &= Q(stream__in=streams)
    if receiver:
        ends = [Q(receiver__endswith=f".{name}") for name in receiver]
        condition &= Q(Q(receiver__in=receiver), *ends, _connector=Q.OR)
    if table:
        condition &= Q(table__in=table)
    if id:
        condition &= Q(event_id__in=id)
    if older_than:
        condition &= Q(parked_at__lt=timezone.now() - older_than)
    if newer_than:
        condition &= Q(parked_at__gte=timezone.now() - newer_than)
    return condition
