"""Storage of failed receiver calls for a later replay."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from django.db import router

from walex_django.conf.own_tables import own_transaction
from walex_django.events.event import Event
from walex_django.models import ParkedEvent
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import LogicalMessage

from .identity import Identity


def park(
    *,
    stream: str,
    signal: str,
    receiver: Identity,
    arguments: Mapping[str, Any],
    error: BaseException,
    attempts: int,
) -> ParkedEvent:
    """
    Store a failed receiver call.

    Args:
        stream: The stream's name.
        signal: The signal's name.
        receiver: The receiver's identity.
        arguments: The call's arguments except ``signal``, ``sender`` and ``stream``.
        error: The exception of the last attempt.
        attempts: The number of attempts.

    Returns:
        The stored event.

    Raises:
        django.db.Error: The database could not store the call.
    """
    parked = ParkedEvent(
        stream=stream,
        signal=signal,
        receiver=receiver.name,
        dispatch_uid=_storable(receiver.dispatch_uid),
        is_ambiguous=receiver.is_ambiguous,
        event_id=subject(arguments),
        table=_table(arguments),
        arguments_json=json.dumps({k: _dump(v) for k, v in arguments.items()}),
        error=describe(error),
        traceback=trace(error),
        attempts=attempts,
    )
    with own_transaction(router.db_for_write(ParkedEvent)):
        parked.save(force_insert=True)
    return parked


def unpack(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as `park` got them, from their stored form."""
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
    """Return the id of a call's first event, or the LSN of its message."""
    if message := arguments.get("message"):
        return str(message.lsn)
    events: list[Event] = (
        [arguments["event"]] if "event" in arguments else arguments["events"]
    )
    # A transaction that ends with a message has a last call without events.
    return events[0].id if events else ""


def describe(error: BaseException) -> str:
    """Return an error in the form of the last line of its traceback."""
    return _storable("".join(traceback.format_exception_only(error)).strip())


def trace(error: BaseException) -> str:
    """Return an error's traceback."""
    return _storable("".join(traceback.format_exception(error)))


def _storable(text: str) -> str:
    """Escape U+0000 and lone surrogates, which PostgreSQL cannot store in text."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def _table(arguments: Mapping[str, Any]) -> str:
    """Return the table of a call's events, or an empty string if not exactly one."""
    events: list[Event] = (
        [arguments["event"]] if "event" in arguments else arguments.get("events", [])
    )
    tables = {f"{event.source.schema}.{event.source.table}" for event in events}
    return tables.pop() if len(tables) == 1 else ""


def _dump(value: Any) -> Any:
    if isinstance(value, Event):
        return value.as_dict()
    if isinstance(value, list):
        return [_dump(item) for item in value]
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
