"""Replay of parked receiver calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from django.db import connections, router, transaction
from django.db.models import F, Model, QuerySet

from walex_django.handlers import registry
from walex_django.models import ParkedEvent
from walex_django.signals import ALL, Receiver, receiver_name

from .dispatch import RECEIVER_ERRORS
from .parking import describe, trace, unpack


class NotConnected(Exception):
    """No receiver of that name is connected to the signal."""


class ReplayResult(NamedTuple):
    """
    The result of replaying one parked event.

    Attributes:
        parked: The parked event.
        error: The error if the call failed again, or `None`.
    """

    parked: ParkedEvent
    error: BaseException | None


def replay(parked_events: QuerySet[ParkedEvent]) -> Iterator[ReplayResult]:
    """
    Repeat parked calls in the order in which they were parked.

    Each call runs in a database transaction that also deletes its parked event, so
    the receiver's writes to that database happen exactly once. If the call fails, the
    parked event is kept with the new error. A parked event that another process is
    replaying is skipped.

    Args:
        parked_events: The parked events to replay.
    """
    using = router.db_for_write(ParkedEvent)
    for pk in parked_events.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic(using=using):
            row = ParkedEvent.objects.using(using).filter(pk=pk)
            parked = row.select_for_update(skip_locked=True).first()
            if parked is None:
                continue
            try:
                with transaction.atomic(using=using):
                    _call(parked)
                    # At COMMIT, a violation could not be attributed to this call.
                    connections[using].check_constraints()
            except RECEIVER_ERRORS as error:
                row.update(
                    attempts=F("attempts") + 1,
                    error=describe(error),
                    traceback=trace(error),
                )
                result = ReplayResult(parked, error)
            else:
                row.delete()
                result = ReplayResult(parked, None)
        yield result


def _call(parked: ParkedEvent) -> None:
    arguments = unpack(parked.arguments)
    event = arguments.get("event")
    sender = event.model if event else None
    receiver = _find_receiver(parked, sender)
    receiver(sender=sender, stream=parked.stream, **arguments)


def _find_receiver(parked: ParkedEvent, sender: type[Model] | None) -> Receiver:
    if function := registry.find_function(parked.signal, parked.receiver):
        return function
    for signal in ALL:
        if signal.name == parked.signal:
            for receiver in signal.receivers_of(sender, parked.stream):
                if receiver_name(receiver) == parked.receiver:
                    return partial(receiver, signal=signal)
    raise NotConnected(f"{parked.receiver} is not connected to {parked.signal}")
