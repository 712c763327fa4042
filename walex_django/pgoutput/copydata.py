"""
The payloads of the CopyData messages in a replication stream.

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
"""Length in bytes of an XLogData envelope before its message."""

_XLOG_DATA = Struct(">QQq")
_KEEPALIVE = Struct(">QqB")
_STATUS = Struct(">cQQQqB")


@dataclass(frozen=True, slots=True)
class XLogData:
    """
    The envelope around a logical replication message.

    Attributes:
        start_lsn: The position of the change; 0/0 if the message isn't a change.
        end_lsn: The end of the WAL on the server; unrelated to this change.
        payload: A message for `~walex_django.pgoutput.decoder.decode`.
    """

    start_lsn: Lsn
    end_lsn: Lsn
    payload: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """
    A keepalive message from the server.

    Attributes:
        end_lsn: The position up to which the server has sent everything.
        reply_requested: Whether the server requests an immediate reply.
    """

    end_lsn: Lsn
    reply_requested: bool


def parse(data: bytes) -> XLogData | Keepalive:
    """
    Parse one CopyData payload.

    Raises:
        ProtocolError: The payload is truncated, too long or of an unknown type.
    """
    if not data:
        raise ProtocolError("CopyData", 0, "empty")
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
            raise ProtocolError("Keepalive", size, f"{len(data) - size} extra bytes")
        end, _, reply = _KEEPALIVE.unpack_from(data, 1)
        if reply > 1:
            raise ProtocolError("Keepalive", 17, f"flag is {reply}, expected 0 or 1")
        return Keepalive(Lsn(end), bool(reply))
    raise ProtocolError("CopyData", 0, f"unknown message type {data[:1]!r}")


def status_update(
    *, received: int, confirmed: int, reply_requested: bool = False
) -> bytes:
    """
    Return the bytes of a standby status update.

    Args:
        received: The LSN up to which the WAL was received.
        confirmed: The LSN up to which everything was processed. The server never
            sends what precedes it again.
        reply_requested: Whether to request an immediate keepalive.
    """
    clock = (datetime.now(UTC) - POSTGRES_EPOCH) // timedelta(microseconds=1)
    return _STATUS.pack(b"r", received, confirmed, confirmed, clock, reply_requested)
