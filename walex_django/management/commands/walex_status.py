from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.template.defaultfilters import filesizeformat

from walex_django import runtime, status
from walex_django.management.streams import (
    CHECKS,
    add_stream_option,
    chosen,
    reported,
)
from walex_django.replication.connection import connect
from walex_django.status import SlotStatus, StreamStatus


class Command(BaseCommand):
    help = (
        "Shows how the streams are: slot, reader, lag, publication, parked calls, and"
        " settings that were changed while they ran."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        add_stream_option(parser)
        parser.add_argument("--json", action="store_true", help="For programs.")

    def handle(self, *args: Any, **options: Any) -> None:
        found: list[StreamStatus] = []
        for written in chosen(options["streams"]):
            with (
                reported(written),
                connect(written.connection_parameters()) as connection,
            ):
                found.append(status.read(runtime.refreshed(written), connection))
        if options["json"]:
            told = [each.as_dict() for each in found]
            self.stdout.write(json.dumps(told, cls=DjangoJSONEncoder, indent=2))
            return
        for each in found:
            self.stdout.write("\n".join(_lines(each)))


def _lines(stream: StreamStatus) -> Iterator[str]:
    yield (
        f"{stream.name} on database {stream.database}"
        f" (PostgreSQL {stream.server_version})"
    )
    yield f"  slot         {stream.slot_name}: {_slot(stream.slot)}"
    if stream.slot and stream.slot.lag is not None:
        yield (
            f"  lag          {_size(stream.slot.lag)}, the server keeps"
            f" {_size(stream.slot.retained or 0)} of its log"
        )
    tables = ", ".join(stream.tables) or "no tables"
    yield f"  publication  {', '.join(stream.publications)}: {tables}"
    yield f"  parked       {stream.parked or 'nothing'}"
    for key, value in stream.changed.items():
        yield f"  changed      {key} = {json.dumps(value, ensure_ascii=False)}"


def _slot(slot: SlotStatus | None) -> str:
    if slot is None:
        return "is not there"
    kind = "temporary" if slot.temporary else "durable"
    if slot.wal_status == "lost":
        return f"{kind}, lost"
    if slot.active_pid is None:
        return f"{kind}, nobody reads it"
    since = f" since {slot.since:%Y-%m-%d %H:%M:%S %Z}" if slot.since else ""
    return (
        f"{kind}, read from {slot.client or 'this machine'} by process"
        f" {slot.active_pid}{since}"
    )


def _size(size: int) -> str:
    return filesizeformat(size).replace("\xa0", " ")
