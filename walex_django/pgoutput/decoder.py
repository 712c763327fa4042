"""Decode the output of the ``pgoutput`` plugin into `.messages`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .errors import ProtocolError
from .lsn import Lsn
from .messages import (
    UNCHANGED,
    Begin,
    Binary,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    PartialRow,
    Relation,
    Row,
    Truncate,
    Type,
    Update,
)

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")


def decode(data: bytes, start: int = 0) -> Message:
    """
    Decode the message that occupies ``data`` from ``start`` to the end.

    Args:
        data: A message, or a CopyData payload that contains one.
        start: The offset of the message's first byte.

    Raises:
        ProtocolError: The message is truncated, too long, of an unknown type or
            otherwise malformed.
    """
    if start >= len(data):
        raise ProtocolError("message", 0, "empty")
    kind = data[start]
    try:
        name, read = _READERS[kind]
    except KeyError:
        raise ProtocolError(
            "message", 0, f"unknown message type {bytes([kind])!r}"
        ) from None
    try:
        message, end = read(data, start + 1)
    except _Malformed as error:
        raise ProtocolError(name, error.offset - start, error.reason) from None
    except (IndexError, struct.error):
        # The only cause is a read past the end.
        raise ProtocolError(name, len(data) - start, "truncated") from None
    if end > len(data):
        raise ProtocolError(name, len(data) - start, "truncated")
    if end < len(data):
        raise ProtocolError(name, end - start, f"{len(data) - end} extra bytes")
    return message


def relation_oid(data: bytes, start: int = 0) -> int:
    """Return the table's OID of an Insert, Update or Delete without decoding it."""
    return int.from_bytes(data[start + 1 : start + 5], "big")


class _Malformed(Exception):
    def __init__(self, offset: int, reason: str) -> None:
        self.offset, self.reason = offset, reason


# Each reader takes the offset after the message type, and returns the message and the
# offset after it. A slice past the end is silently short, so readers of fixed fields
# use _int or a Struct. _row, the hot path, relies on `decode` to compare the offsets at
# the end.


def _int(data: bytes, pos: int, size: int) -> int:
    if pos + size > len(data):
        raise IndexError
    return int.from_bytes(data[pos : pos + size], "big")


def _text(data: bytes, pos: int) -> tuple[str, int]:
    end = data.find(0, pos)
    if end < 0:
        raise IndexError
    try:
        return data[pos:end].decode(), end + 1
    except UnicodeDecodeError as error:
        raise _Malformed(pos + error.start, "not UTF-8") from None


def _flag(data: bytes, pos: int) -> bool:
    value = _int(data, pos, 1)
    if value > 1:
        raise _Malformed(pos, f"flag is {value}, expected 0 or 1")
    return bool(value)


def _timestamp(microseconds: int, pos: int) -> datetime:
    try:
        return POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise _Malformed(
            pos, f"timestamp out of range: {microseconds} µs after 2000"
        ) from None


def _row(data: bytes, pos: int) -> tuple[Row, int]:
    count = data[pos] << 8 | data[pos + 1]
    pos += 2
    plain = True
    row: Row = []
    append = row.append
    for _ in range(count):
        kind = data[pos]
        if kind == 0x74:  # t
            begin = pos + 5
            pos = begin + int.from_bytes(data[pos + 1 : begin], "big")
            append(data[begin:pos])
        elif kind == 0x6E:  # n
            append(None)
            pos += 1
        elif kind == 0x75:  # u
            append(UNCHANGED)
            pos += 1
            plain = False
        elif kind == 0x62:  # b
            begin = pos + 5
            pos = begin + int.from_bytes(data[pos + 1 : begin], "big")
            append(Binary(data[begin:pos]))
            plain = False
        else:
            raise _Malformed(pos, f"unknown value type {bytes([kind])!r}")
    return (row if plain else PartialRow(row)), pos


def _begin(data: bytes, pos: int) -> tuple[Message, int]:
    commit_lsn, time, xid = _BEGIN.unpack_from(data, pos)
    return Begin(Lsn(commit_lsn), _timestamp(time, pos + 8), xid), pos + 20


def _commit(data: bytes, pos: int) -> tuple[Message, int]:
    flags, commit_lsn, end_lsn, time = _COMMIT.unpack_from(data, pos)
    return (
        Commit(flags, Lsn(commit_lsn), Lsn(end_lsn), _timestamp(time, pos + 17)),
        pos + 25,
    )


def _origin(data: bytes, pos: int) -> tuple[Message, int]:
    lsn = Lsn(_int(data, pos, 8))
    name, pos = _text(data, pos + 8)
    return Origin(lsn, name), pos


def _relation(data: bytes, pos: int) -> tuple[Message, int]:
    oid = _int(data, pos, 4)
    schema, pos = _text(data, pos + 4)
    name, pos = _text(data, pos)
    identity = _int(data, pos, 1)
    if identity not in b"dnfi":
        raise _Malformed(pos, f"unknown replica identity {bytes([identity])!r}")
    count = _int(data, pos + 1, 2)
    pos += 3
    columns = []
    for _ in range(count):
        is_key = _flag(data, pos)
        column, pos = _text(data, pos + 1)
        type_oid = _int(data, pos, 4)
        modifier = _int(data, pos + 4, 4)
        columns.append(
            Column(column, type_oid, modifier - ((modifier >> 31) << 32), is_key)
        )
        pos += 8
    # pgoutput sends an empty schema name for relations in pg_catalog.
    return (
        Relation(oid, schema or "pg_catalog", name, chr(identity), tuple(columns)),
        pos,
    )


def _type(data: bytes, pos: int) -> tuple[Message, int]:
    oid = _int(data, pos, 4)
    schema, pos = _text(data, pos + 4)
    name, pos = _text(data, pos)
    return Type(oid, schema or "pg_catalog", name), pos


def _insert(data: bytes, pos: int) -> tuple[Message, int]:
    if data[pos + 4] != 0x4E:  # N
        raise _Malformed(pos + 4, f"unknown tuple type {data[pos + 4 : pos + 5]!r}")
    oid = int.from_bytes(data[pos : pos + 4], "big")
    row, pos = _row(data, pos + 5)
    return Insert(oid, row), pos


def _update(data: bytes, pos: int) -> tuple[Message, int]:
    kind = data[pos + 4]
    oid = int.from_bytes(data[pos : pos + 4], "big")
    key = old = None
    pos += 4
    if kind == 0x4F:  # O
        old, pos = _row(data, pos + 1)
    elif kind == 0x4B:  # K
        key, pos = _row(data, pos + 1)
    if data[pos] != 0x4E:  # N
        raise _Malformed(pos, f"unknown tuple type {data[pos : pos + 1]!r}")
    new, pos = _row(data, pos + 1)
    return Update(oid, key, old, new), pos


def _delete(data: bytes, pos: int) -> tuple[Message, int]:
    kind = data[pos + 4]
    oid = int.from_bytes(data[pos : pos + 4], "big")
    if kind not in b"OK":
        raise _Malformed(pos + 4, f"unknown tuple type {bytes([kind])!r}")
    row, pos = _row(data, pos + 5)
    if kind == 0x4F:  # O
        return Delete(oid, None, row), pos
    return Delete(oid, row, None), pos


def _truncate(data: bytes, pos: int) -> tuple[Message, int]:
    count = _int(data, pos, 4)
    flags = _int(data, pos + 4, 1)
    if flags > 3:
        raise _Malformed(pos + 4, f"unknown flags {flags}")
    end = pos + 5 + 4 * count
    # Checked before the loop: a corrupt count could make it run for minutes.
    if end > len(data):
        raise IndexError
    oids = tuple(_int(data, offset, 4) for offset in range(pos + 5, end, 4))
    return Truncate(oids, bool(flags & 1), bool(flags & 2)), end


def _message(data: bytes, pos: int) -> tuple[Message, int]:
    transactional = _flag(data, pos)
    lsn = Lsn(_int(data, pos + 1, 8))
    prefix, pos = _text(data, pos + 9)
    begin = pos + 4
    end = begin + _int(data, pos, 4)
    return LogicalMessage(transactional, lsn, prefix, data[begin:end]), end


_READERS: dict[int, tuple[str, Callable[[bytes, int], tuple[Message, int]]]] = {
    ord("B"): ("Begin", _begin),
    ord("C"): ("Commit", _commit),
    ord("O"): ("Origin", _origin),
    ord("R"): ("Relation", _relation),
    ord("Y"): ("Type", _type),
    ord("I"): ("Insert", _insert),
    ord("U"): ("Update", _update),
    ord("D"): ("Delete", _delete),
    ord("T"): ("Truncate", _truncate),
    ord("M"): ("LogicalMessage", _message),
}
