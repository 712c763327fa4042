"""
What travels in the CopyData messages of a replication stream.

Source: PostgreSQL, "Streaming Replication Protocol", START_REPLICATION.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct

from .decoder import POSTGRES_EPOCH
from .errors import ProtocolError
from .lsn import Lsn

XLOG_DATA = ord("w")
KEEPALIVE = ord("k")
XLOG_DATA_HEADER = 25
"""Bytes before the message in an XLogData envelope."""

_XLOG_DATA = Struct(">QQq")
_KEEPALIVE = Struct(">QqB")
_STATUS = Struct(">cQQQqB")


@dataclass(frozen=True, slots=True)
class XLogData:
    """
    The envelope of a message.

    Attributes:
        start_lsn: position of the change; 0/0 for what stands for no change.
        end_lsn: the end of the log on the server; says nothing of this change.
        payload: a message for `~walex_django.pgoutput.decoder.decode`.
    """

    start_lsn: Lsn
    end_lsn: Lsn
    payload: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """
    A sign of life.

    Attributes:
        end_lsn: everything before it was sent.
        reply_requested: the server wants to hear from us at once.
    """

    end_lsn: Lsn
    reply_requested: bool


def parse(data: bytes) -> XLogData | Keepalive:
    """
    Read one CopyData payload.

    Raises:
        ProtocolError: the bytes are truncated, over-long or of no known envelope.
    """
    if not data:
        raise ProtocolError("CopyData", 0, "no bytes")
    if data[0] == XLOG_DATA:
        if len(data) < XLOG_DATA_HEADER:
            raise ProtocolError("XLogData", len(data), "truncated")
        start, end, _ = _XLOG_DATA.unpack_from(data, 1)
        return XLogData(Lsn(start), Lsn(end), data[XLOG_DATA_HEADER:])
    if data[0] == KEEPALIVE:
        size = 1 + _KEEPALIVE.size
        if len(data) < size:
            raise ProtocolError("Keepalive", len(data), "truncated")
        if len(data) > size:
            raise ProtocolError("Keepalive", size, f"{len(data) - size} bytes too many")
        end, _, reply = _KEEPALIVE.unpack_from(data, 1)
        if reply > 1:
            raise ProtocolError("Keepalive", 17, f"flag is {reply}, neither 0 nor 1")
        return Keepalive(Lsn(end), bool(reply))
    raise ProtocolError("CopyData", 0, f"unknown kind {data[:1]!r}")


def status_update(
    *, received: int, confirmed: int, reply_requested: bool = False
) -> bytes:
    """
    Make a standby status update.

    Args:
        received: LSN up to which we have read.
        confirmed: LSN up to which all is done; the server never sends it again.
        reply_requested: ask the server for a keepalive at once.
    """
    clock = (datetime.now(UTC) - POSTGRES_EPOCH) // timedelta(microseconds=1)
    return _STATUS.pack(b"r", received, confirmed, confirmed, clock, reply_requested)
