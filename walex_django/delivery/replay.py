"""Parked calls of receivers, made again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from django.db import connections, router, transaction
from django.db.models import F, Model, QuerySet

from walex_django.handlers import registry
from walex_django.models import ParkedEvent
from walex_django.signals import ALL, Receiver, receiver_name

from .dispatch import RAISED
from .parking import describe, trace, unpack


class NotConnected(Exception):
    """No receiver of that name is connected to the signal."""


class Replayed(NamedTuple):
    """A parked event that was tried again, and the error if it failed again."""

    parked: ParkedEvent
    error: BaseException | None


def replay(parked_events: QuerySet[ParkedEvent]) -> Iterator[Replayed]:
    """
    Make the calls again, in the order in which they were parked.

    Each is made in a database transaction, together with the removal of its parked
    event: what a receiver writes to that database happens once. One that fails stays,
    with its new error. One that somebody else is just replaying is left out.

    Args:
        parked_events: which.
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
                    # At COMMIT it would be too late to tell whose failure it was.
                    connections[using].check_constraints()
            except RAISED as error:
                row.update(
                    attempts=F("attempts") + 1,
                    error=describe(error),
                    traceback=trace(error),
                )
                result = Replayed(parked, error)
            else:
                row.delete()
                result = Replayed(parked, None)
        yield result


def _call(parked: ParkedEvent) -> None:
    arguments = unpack(parked.arguments)
    event = arguments.get("event")
    sender = event.model if event else None
    receiver = _find(parked, sender)
    receiver(sender=sender, stream=parked.stream, **arguments)


def _find(parked: ParkedEvent, sender: type[Model] | None) -> Receiver:
    if called := registry.find_function(parked.signal, parked.receiver):
        return called
    for signal in ALL:
        if signal.name == parked.signal:
            for receiver in signal.receivers_of(sender, parked.stream):
                if receiver_name(receiver) == parked.receiver:
                    return partial(receiver, signal=signal)
    raise NotConnected(f"{parked.receiver} is not connected to {parked.signal}")
