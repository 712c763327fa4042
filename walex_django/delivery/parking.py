"""Calls of receivers that failed, kept to be made again."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from walex_django.events.event import Event
from walex_django.models import ParkedEvent
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import LogicalMessage


def park(
    *,
    stream: str,
    signal: str,
    receiver: str,
    arguments: Mapping[str, Any],
    error: BaseException,
    attempts: int,
) -> ParkedEvent:
    """
    Store a call of a receiver.

    Args:
        stream: name of the stream.
        signal: name of the signal.
        receiver: dotted name of the receiver.
        arguments: those it was called with, besides ``signal``, ``sender``, ``stream``.
        error: what it raised last.
        attempts: how often it was called.

    Raises:
        django.db.Error: the database did not take it.
    """
    return ParkedEvent.objects.create(
        stream=stream,
        signal=signal,
        receiver=receiver,
        event_id=subject(arguments),
        table=_table(arguments),
        arguments_json=json.dumps({k: _dump(v) for k, v in arguments.items()}),
        error=describe(error),
        traceback=trace(error),
        attempts=attempts,
    )


def unpack(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `park` was given of a call, from ``ParkedEvent.arguments``."""
    readers: dict[str, Callable[[Any], Any]] = {
        "event": Event.from_dict,
        "events": lambda events: [Event.from_dict(event) for event in events],
        "message": _load_message,
    }
    return {
        name: readers[name](value) if name in readers else value
        for name, value in arguments.items()
    }


def subject(arguments: Mapping[str, Any]) -> str:
    """Return what a call is about: the id of its first event, or a message's place."""
    if message := arguments.get("message"):
        return str(message.lsn)
    events: list[Event] = (
        [arguments["event"]] if "event" in arguments else arguments["events"]
    )
    # The last chunk of a transaction that ends with a message has none.
    return events[0].id if events else ""


def describe(error: BaseException) -> str:
    """Return an error as the last line of its traceback has it."""
    return _storable("".join(traceback.format_exception_only(error)).strip())


def trace(error: BaseException) -> str:
    """Return an error's traceback."""
    return _storable("".join(traceback.format_exception(error)))


def _storable(text: str) -> str:
    """Return a text as PostgreSQL takes it: without U+0000 and lone surrogates."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def _table(arguments: Mapping[str, Any]) -> str:
    """Return the table that a call is about, if it is about one."""
    events: list[Event] = (
        [arguments["event"]] if "event" in arguments else arguments.get("events", [])
    )
    tables = {f"{event.source.schema}.{event.source.table}" for event in events}
    return tables.pop() if len(tables) == 1 else ""


def _dump(value: Any) -> Any:
    if isinstance(value, Event):
        return value.as_dict()
    if isinstance(value, list):
        return [_dump(each) for each in value]
    if isinstance(value, LogicalMessage):
        return {
            "transactional": value.transactional,
            "lsn": str(value.lsn),
            "prefix": value.prefix,
            "content": base64.b64encode(value.content).decode(),
        }
    return value


def _load_message(data: Mapping[str, Any]) -> LogicalMessage:
    return LogicalMessage(
        transactional=data["transactional"],
        lsn=Lsn.parse(data["lsn"]),
        prefix=data["prefix"],
        content=base64.b64decode(data["content"]),
    )
