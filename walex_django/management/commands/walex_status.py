from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.template.defaultfilters import filesizeformat

from walex_django import status
from walex_django.management.streams import CHECKS, add_stream_option, chosen
from walex_django.replication.slots import Slot
from walex_django.status import StreamStatus


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
        overview = status.read_all(chosen(options["streams"]))
        if options["json"]:
            told = [each.as_dict() for each in overview.streams]
            self.stdout.write(json.dumps(told, cls=DjangoJSONEncoder, indent=2))
            return
        for each in overview.streams:
            self.stdout.write("\n".join(_lines(each)))


def _lines(stream: StreamStatus) -> Iterator[str]:
    config = stream.config
    yield (
        f"{config.name} on database {config.database}"
        f" (PostgreSQL {stream.server_version})"
    )
    yield f"  slot         {config.slot_name}: {_slot(stream.slot)}"
    if stream.slot and stream.slot.lag is not None:
        yield (
            f"  lag          {_size(stream.slot.lag)}, the server keeps"
            f" {_size(stream.slot.retained or 0)} of its log"
        )
    tables = ", ".join(str(each.table) for each in stream.tables) or "no tables"
    yield f"  publication  {', '.join(config.publications)}: {tables}"
    yield f"  parked       {stream.account.parked or 'nothing'}"
    for key, value in stream.account.changed.items():
        yield f"  changed      {key} = {json.dumps(value, ensure_ascii=False)}"


def _slot(slot: Slot | None) -> str:
    if slot is None:
        return "is not there"
    kind = "temporary" if slot.temporary else "durable"
    if slot.lost:
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
