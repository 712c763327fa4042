"""Identification of receivers, so that a parked call is replayed with its own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

from django.db.models import Model

from walex_django.handlers import registry
from walex_django.handlers.functions import Called, Function
from walex_django.handlers.registry import Handler
from walex_django.models import ParkedEvent
from walex_django.signals import (
    ALL,
    Receiver,
    StreamSignal,
    receiver_key,
    receiver_name,
)

SignalOrHandler: TypeAlias = StreamSignal | Handler | Function


class NotReplayed(Exception):
    """A parked call was not repeated, because its receiver could not be determined."""


class NotConnected(NotReplayed):
    """The receiver of a parked call is not connected to its signal."""


class AmbiguousReceiver(NotReplayed):
    """Several receivers may be the one of a parked call."""


class Identity(NamedTuple):
    """
    The identity of a receiver of a signal.

    Attributes:
        name: The receiver's dotted name.
        dispatch_uid: Its ``dispatch_uid``; empty if it was connected without one.
        is_ambiguous: Whether another receiver of the signal has the same identity.
    """

    name: str
    dispatch_uid: str = ""
    is_ambiguous: bool = False


def identify(
    signal: SignalOrHandler,
    receiver: Receiver,
    sender: type[Model] | None,
    stream: str,
) -> Identity:
    """
    Return the identity of a receiver.

    Args:
        signal: The signal that it is connected to; for handlers and functions, the
            handler or function itself.
        receiver: The receiver, as `StreamSignal.receivers_of` returned it.
        sender: The sender of the call.
        stream: The name of the stream.
    """
    name = receiver_name(receiver)
    if not isinstance(signal, StreamSignal):
        return Identity(name, "", len(registry.find_functions(signal.name, name)) > 1)
    if uids := signal.dispatch_uids(receiver):
        return Identity(name, uids[0])
    others = _without_uid(signal, _named(signal, name, sender, stream))
    return Identity(name, "", len(others) > 1)


def find_receiver(
    parked: ParkedEvent,
    sender: type[Model] | None,
    dispatch_uid: str | None = None,
) -> Receiver:
    """
    Return the receiver of a parked call.

    Args:
        parked: The parked event.
        sender: The sender of the call.
        dispatch_uid: The ``dispatch_uid`` of the receiver to choose if the call was
            parked without one.

    Raises:
        NotConnected: The receiver is no longer connected.
        AmbiguousReceiver: Several receivers may be the one that failed.
    """
    name = parked.receiver
    if functions := registry.find_functions(parked.signal, name):
        return _only_function(parked, functions)
    for signal in ALL:
        if signal.name == parked.signal:
            uid = parked.dispatch_uid or dispatch_uid
            found = _named(signal, name, sender, parked.stream)
            receiver = _choose(parked, signal, found, uid)
            return partial(receiver, signal=signal)
    raise NotConnected(f"{name} is not connected to {parked.signal}")


def _only_function(parked: ParkedEvent, functions: list[Called]) -> Called:
    if len(functions) > 1 or parked.is_ambiguous:
        raise AmbiguousReceiver(
            f"Several functions have the name {parked.receiver}, so the one that failed"
            " is unknown. Give each function a name of its own"
        )
    return functions[0]


def _choose(
    parked: ParkedEvent,
    signal: StreamSignal,
    found: list[Receiver],
    uid: str | None,
) -> Receiver:
    name = parked.receiver
    if uid:
        matching = [
            receiver for receiver in found if uid in signal.dispatch_uids(receiver)
        ]
        if not matching:
            raise NotConnected(
                f"{name} is not connected to {signal.name} with dispatch_uid {uid!r}"
            )
    else:
        matching = _without_uid(signal, found)
        if found and not matching:
            uids = sorted({uid for each in found for uid in signal.dispatch_uids(each)})
            raise NotConnected(
                f"{name} is connected to {signal.name} with a dispatch_uid, but this"
                " call was parked without one. To call that receiver, run: python"
                f" manage.py walex_replay --id {parked.event_id} --dispatch-uid"
                f" {uids[0]}"
            )
        if not found:
            raise NotConnected(f"{name} is not connected to {signal.name}")
    if len(matching) > 1 or (parked.is_ambiguous and not uid):
        raise AmbiguousReceiver(
            f"Several receivers of {signal.name} have the name {name}, so the one that"
            " failed is unknown. Connect each of them with a dispatch_uid of its own,"
            " then choose one: python manage.py walex_replay --id"
            f" {parked.event_id} --dispatch-uid UID"
        )
    return matching[0]


def _named(
    signal: StreamSignal, name: str, sender: type[Model] | None, stream: str
) -> list[Receiver]:
    """Return the receivers with a name, each callable once."""
    receivers = signal.receivers_of(sender, stream)
    return _distinct(each for each in receivers if receiver_name(each) == name)


def _distinct(receivers: Iterable[Receiver]) -> list[Receiver]:
    found = {receiver_key(receiver): receiver for receiver in receivers}
    return list(found.values())


def _without_uid(signal: StreamSignal, receivers: list[Receiver]) -> list[Receiver]:
    return [each for each in receivers if not signal.dispatch_uids(each)]
