"""Replay of parked receiver calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple, TypeAlias

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router, transaction
from django.db.models import F, QuerySet

from walex_django.conf.configs import get_config
from walex_django.models import ParkedEvent
from walex_django.signals import Receiver

from .claims import Claims
from .dispatch import RECEIVER_ERRORS, runs_in_pool
from .identity import NotReplayed, find_receiver
from .parking import describe, trace, unpack
from .transactions import renew_connections


class ReplayResult(NamedTuple):
    """
    The result of replaying one parked event.

    Attributes:
        parked: The parked event.
        error: The error if the call failed again, or `None`.
    """

    parked: ParkedEvent
    error: BaseException | None


def replay(
    parked_events: QuerySet[ParkedEvent], *, dispatch_uid: str | None = None
) -> Iterator[ReplayResult]:
    """
    Repeat parked calls in the order in which they were parked.

    Receivers run as in the stream. For a stream with ``ATOMIC``, and inside a
    transaction of the caller, the call and the deletion of its parked event are one
    transaction, so the receiver's writes to that database happen exactly once.
    Otherwise the receiver runs outside of a transaction, and is called again if the
    process is killed between its return and the deletion.

    If the call fails, the parked event is kept with the new error. A parked event that
    another process is replaying is skipped. One whose receiver cannot be determined is
    kept unchanged.

    Args:
        parked_events: The parked events to replay.
        dispatch_uid: The ``dispatch_uid`` of the receiver to call for events that were
            parked without one.
    """
    using = router.db_for_write(ParkedEvent)
    with closing(Claims(using)) as claims:
        for pk in parked_events.order_by("pk").values_list("pk", flat=True):
            parked = ParkedEvent.objects.using(using).filter(pk=pk).first()
            if parked is None:
                continue
            try:
                receiver, arguments = _prepare(parked, dispatch_uid)
            except (NotReplayed, ValueError) as error:
                yield ReplayResult(parked, error)
                continue
            if _needs_transaction(parked, receiver, using):
                result = _replay_in_transaction(parked, receiver, arguments, using)
            else:
                result = _replay_claimed(parked, receiver, arguments, claims)
            if result:
                yield result


_Arguments: TypeAlias = dict[str, Any]


def _prepare(
    parked: ParkedEvent, dispatch_uid: str | None
) -> tuple[Receiver, _Arguments]:
    arguments = unpack(parked.arguments)
    event = arguments.get("event")
    sender = event.model if event else None
    receiver = find_receiver(parked, sender, dispatch_uid)
    return receiver, {"sender": sender, "stream": parked.stream, **arguments}


def _needs_transaction(parked: ParkedEvent, receiver: Receiver, using: str) -> bool:
    if connections[using].in_atomic_block:
        # The caller may roll back: the deletion must not outlive the receiver's work.
        return True
    try:
        is_atomic = get_config(parked.stream).atomic
    except ImproperlyConfigured:  # the stream is no longer in the settings
        is_atomic = False
    return is_atomic and not runs_in_pool(receiver)


def _replay_in_transaction(
    parked: ParkedEvent, receiver: Receiver, arguments: _Arguments, using: str
) -> ReplayResult | None:
    with transaction.atomic(using=using):
        row = ParkedEvent.objects.using(using).filter(pk=parked.pk)
        if not row.select_for_update(skip_locked=True).exists():
            return None
        try:
            with transaction.atomic(using=using):
                receiver(**arguments)
                # At COMMIT, a violation could not be attributed to this call.
                connections[using].check_constraints()
        except RECEIVER_ERRORS as error:
            return _failed(parked, error)
        row.delete()
    return ReplayResult(parked, None)


def _replay_claimed(
    parked: ParkedEvent, receiver: Receiver, arguments: _Arguments, claims: Claims
) -> ReplayResult | None:
    if not claims.take(parked):
        return None
    try:
        receiver(**arguments)
    except RECEIVER_ERRORS as error:
        # The cause may have been a connection that the server has closed.
        renew_connections()
        claims.release()
        return _failed(parked, error)
    claims.delete(parked)
    return ReplayResult(parked, None)


def _failed(parked: ParkedEvent, error: BaseException) -> ReplayResult:
    ParkedEvent.objects.using(parked._state.db).filter(pk=parked.pk).update(
        attempts=F("attempts") + 1, error=describe(error), traceback=trace(error)
    )
    return ReplayResult(parked, error)
