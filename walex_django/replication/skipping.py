"""
Skipping of a transaction that the server cannot send.

Source: PostgreSQL, "Replication Management Functions".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import psycopg
from psycopg.errors import Diagnostic

from walex_django.pgoutput import copydata
from walex_django.pgoutput.copydata import XLOG_DATA, XLOG_DATA_HEADER, Keepalive
from walex_django.pgoutput.decoder import decode
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import Begin

from . import server, slots
from .connection import BoundedConnection, connect
from .decoding import change_position, stream_error
from .errors import DecodingFailed, ReplicationError
from .heartbeat import Heartbeat
from .progress import Progress
from .stream import ReplicationConnection, plugin_options

_STEP = 64 * 1024  # bytes of WAL after a change in which its COMMIT is searched first
_ALIGNMENT = 8  # WAL records start at multiples of it
_POLL = 1.0  # seconds

# A record that would start exactly at a page boundary starts after the page's header.
_PAGE_HEADERS = (0, 24, 40)


class UndeliveredTransactions(ReplicationError):
    """The server sends transactions that come before the one to be skipped."""


def find_failure(
    parameters: Mapping[str, Any], slot: str, publications: Sequence[str]
) -> DecodingFailed | None:
    """
    Read a slot up to the change that the server cannot send, acknowledging nothing.

    Args:
        parameters: Connection parameters, as for `connect`.
        slot: The slot's name.
        publications: The names of the stream's publications.

    Returns:
        The error, or `None` if the server sends everything.

    Raises:
        UndeliveredTransactions: Other transactions come first.
        ReplicationError: The slot can't be read.
    """
    with closing(ReplicationConnection(parameters, slot=slot)) as connection:
        end = server.log_position(connection.sql)
        timeout = server.sender_timeout(connection.sql)
        progress = Progress()  # it stays at 0, which acknowledges nothing
        connection.start(publications)
        begin: Begin | None = None
        try:
            with Heartbeat(connection, progress, timeout / 3, timeout=timeout):
                while True:
                    for data in connection.receive():
                        kind = data[XLOG_DATA_HEADER : XLOG_DATA_HEADER + 1]
                        if data[0] != XLOG_DATA:
                            if not begin and _sent_up_to(data) >= end:
                                return None
                        elif kind == b"B":
                            message = decode(data, XLOG_DATA_HEADER)
                            assert isinstance(message, Begin)
                            begin = message
                        elif kind == b"C":
                            raise UndeliveredTransactions(
                                f'The slot "{slot}" holds transactions that have not'
                                " been delivered yet."
                            )
                    if not connection.wait(_POLL):
                        connection.send_progress(progress, reply_requested=True)
        except DecodingFailed as failure:
            failure.begin = begin
            return failure


def _sent_up_to(data: bytes) -> Lsn:
    """Return the position of a keepalive."""
    envelope = copydata.parse(data)
    return envelope.end_lsn if isinstance(envelope, Keepalive) else Lsn(0)


def skip(
    parameters: Mapping[str, Any],
    slot: str,
    publications: Sequence[str],
    failure: DecodingFailed,
    *,
    before_move: Callable[[Lsn], None],
) -> Lsn:
    """
    Move a slot past one transaction: the first one that it would send.

    Args:
        parameters: Connection parameters, as for `connect`.
        slot: The slot's name.
        publications: The names of the stream's publications.
        failure: The result of `find_failure`.
        before_move: A callable that is called with each position before the slot is
            moved there.

    Returns:
        The position of the transaction's COMMIT. The slot is moved to the next byte.

    Raises:
        ReplicationError: The slot can't be moved.
    """
    with connect(parameters) as connection:
        connection.answer_timeout = math.inf

        def move(commit: int) -> Lsn:
            # Everything that is committed up to this byte counts as acknowledged.
            before_move(Lsn(commit + 1))
            slots.advance(connection, slot, Lsn(commit + 1))
            return Lsn(commit)

        if failure.begin:
            return move(failure.begin.commit_lsn)
        before = _search(connection, slot, publications, failure)
        for header in _PAGE_HEADERS:
            # As long as the server still fails, the COMMIT is further on.
            commit = move(before + header)
            if not _fails(connection, slot, publications, failure, until=None):
                return commit
    raise ReplicationError(
        f'The slot "{slot}" was moved past {commit}, but the server still cannot'
        f" send the change: {failure.error}."
    )


def _search(
    connection: BoundedConnection,
    slot: str,
    publications: Sequence[str],
    failure: DecodingFailed,
) -> Lsn:
    """
    Return the position before the COMMIT of a transaction whose BEGIN was not sent.

    Decoding up to a position fails if and only if the COMMIT starts before it.
    """

    def fails(position: int) -> bool:
        return _fails(connection, slot, publications, failure, until=Lsn(position))

    confirmed = slots.require(connection, slot).confirmed_lsn or Lsn(0)
    low = max(confirmed, failure.position or Lsn(0)) // _ALIGNMENT * _ALIGNMENT
    end = server.log_position(connection) + _ALIGNMENT
    step = _STEP
    while not fails(high := low + step):
        if high > end:
            raise ReplicationError(
                f'The slot "{slot}" can be read now: the server no longer fails.'
            )
        low, step = high, 2 * step
    while high - low > _ALIGNMENT:
        middle = (low + high) // 2 // _ALIGNMENT * _ALIGNMENT
        if fails(middle):
            high = middle
        else:
            low = middle
    return Lsn(low)


_PEEK = """
SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes(
    %s, %s, 1, VARIADIC %s::text[])
"""


def _fails(
    connection: BoundedConnection,
    slot: str,
    publications: Sequence[str],
    failure: DecodingFailed,
    *,
    until: Lsn | None,
) -> bool:
    """Return whether the server fails at the same change, without moving the slot."""
    warnings: list[Lsn | None] = []

    def note(diagnostic: Diagnostic) -> None:
        # PostgreSQL 18 only warns of a missing publication.
        warnings.append(change_position(diagnostic.context))

    options = list(chain(*plugin_options(publications).items()))
    connection.add_notice_handler(note)
    try:
        position = None if until is None else str(until)
        connection.execute(_PEEK, [slot, position, options])
    except psycopg.Error as error:
        found = stream_error(error, slot)
        if not isinstance(found, DecodingFailed):
            raise found from error
        return found.is_like(failure)
    finally:
        connection.remove_notice_handler(note)
    return failure.position is not None and failure.position in warnings
