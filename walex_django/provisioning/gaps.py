"""
Gaps: transactions that a server cannot send, and whether they were skipped.

They are stored in the receivers' database.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from django.conf import settings
from django.db import Error as DatabaseError
from django.db.models import QuerySet
from django.utils import timezone

from walex_django import log
from walex_django.conf.own_tables import own_transaction
from walex_django.conf.receivers_database import database, known_error
from walex_django.conf.stream import StreamConfig
from walex_django.models import Checkpoint, Gap
from walex_django.pgoutput.lsn import Lsn
from walex_django.replication import publications
from walex_django.replication.connection import connect
from walex_django.replication.errors import (
    DecodingFailed,
    PublicationMissing,
    ReplicationError,
)
from walex_django.replication.slots import RECREATE

logger = log.logger(__name__)


def record(config: StreamConfig, system: int | None, failure: DecodingFailed) -> None:
    """
    Store a change that the server cannot send, and give its error a hint.

    Args:
        config: The stream's configuration.
        system: The server's system identifier, or `None` if the slot is temporary.
        failure: The error.
    """
    if system is None:
        failure.hint = (
            "Start the listener again: a temporary slot starts at the current end of"
            " the WAL, and changes made until then are not delivered."
        )
        return
    if begin := failure.begin:
        failure.reason = (
            f"{failure.reason.removesuffix('.')} (transaction {begin.xid}, committed"
            f" at {begin.timestamp:%Y-%m-%d %H:%M:%S} UTC, COMMIT at"
            f" {begin.commit_lsn})."
        )
    skip = (
        "The slot cannot get past that transaction. To skip it alone, run:"
        f" python manage.py walex_skip --stream {config.name}"
    )
    if not isinstance(failure, PublicationMissing):
        failure.hint = skip
    else:
        published = _is_published(config)
        if not published:
            skip = (
                "To create the publication, run: python manage.py walex_setup --stream"
                f" {config.name} and then start the listener again, which shows how to"
                " skip the transaction"
            )
        failure.hint = (
            f"{skip}. To resume from the current end of the WAL, without the changes in"
            f" between, run: {RECREATE}"
        )
        if not published:
            # The server could not decode what is written now either.
            return
    try:
        with own_transaction(database()):
            _store(config, system, failure)
    except DatabaseError as error:
        logger.warning(
            "Stream %s: the change that cannot be sent was not recorded: %s",
            *(config.name, known_error(error) or type(error).__name__),
        )


def pending(system: int, slot_name: str) -> Gap | None:
    """
    Return the transaction that keeps a slot from being read, if one was recorded.

    Args:
        system: The server's system identifier.
        slot_name: The slot's name.

    Raises:
        NotPrepared: The table is missing or can't be read.
    """
    try:
        with own_transaction(database()):
            return _pending(system, slot_name).last()
    except DatabaseError as error:
        if known := known_error(error):
            raise known from error
        raise


def mark_skipped(gap: Gap, position: Lsn, *, by: str) -> None:
    """
    Record that a transaction is about to be skipped.

    If the command is killed before it has moved the slot, the next listener records the
    gap as pending again.

    Args:
        gap: The pending gap.
        position: The position to which the slot is moved: the one after the start of
            the transaction's COMMIT.
        by: Who skips it.
    """
    gap.skipped_at, gap.skipped_by = timezone.now(), by[:200]
    gap.commit_lsn = position - 1
    with own_transaction(gap._state.db or database()):
        gap.save()
        # Otherwise the next listener would report that the slot has been moved.
        Checkpoint.objects.using(gap._state.db).filter(
            system_identifier=gap.system_identifier,
            slot_name=gap.slot_name,
            confirmed__lt=position,
        ).update(confirmed=position)


def mark_pending(gap: Gap) -> None:
    """Record that a transaction was not skipped after all."""
    gap.skipped_at, gap.skipped_by = None, ""
    with own_transaction(gap._state.db or database()):
        gap.save(update_fields=["skipped_at", "skipped_by"])


def of_stream(name: str) -> list[Gap]:
    """Return the gaps of a stream, the latest first."""
    return list(Gap.objects.using(database()).filter(stream=name).order_by("-pk"))


def forget(stream: str) -> None:
    """Delete the gaps of a stream, if any."""
    # Not migrated yet, or not permitted.
    with suppress(DatabaseError), own_transaction(database()):
        Gap.objects.using(database()).filter(stream=stream).delete()


def settle(system: int, slot_name: str) -> None:
    """
    Delete the pending gap of a slot, because the slot no longer stops there.

    Args:
        system: The server's system identifier.
        slot_name: The slot's name.
    """
    with own_transaction(database()):
        _pending(system, slot_name).delete()


def _pending(system: int, slot_name: str) -> QuerySet[Gap]:
    return Gap.objects.using(database()).filter(
        system_identifier=system, slot_name=slot_name, skipped_at=None
    )


def _store(config: StreamConfig, system: int, failure: DecodingFailed) -> None:
    begin, position = failure.begin, failure.position
    # A slot has one pending gap at most.
    _pending(system, config.slot_name).delete()
    Gap.objects.using(database()).update_or_create(
        system_identifier=system,
        slot_name=config.slot_name,
        position=position,
        error=failure.error,
        defaults={
            "stream": config.name,
            "xid": begin.xid if begin else None,
            "commit_lsn": begin.commit_lsn if begin else None,
            "committed_at": _time(begin.timestamp) if begin else None,
            "table": failure.table,
            "found_at": timezone.now(),
            "skipped_at": None,
            "skipped_by": "",
        },
    )


def _time(at: datetime) -> datetime:
    # Without USE_TZ, SQLite does not accept aware times.
    return at if settings.USE_TZ else timezone.make_naive(at)


def _is_published(config: StreamConfig) -> bool:
    try:
        with connect(config.connection_parameters(), timeout=5) as connection:
            publications.require(connection, config.publications)
    except ReplicationError:
        return False
    return True
