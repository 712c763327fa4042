"""
The messages of the ``pgoutput`` plugin, protocol version 1.

Source: PostgreSQL, "Logical Replication Message Formats".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, TypeAlias

from .lsn import Lsn


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Represents an unchanged TOASTed value, which the server didn't send (type ``u``)."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A value in the binary format of its data type (type ``b``)."""

    data: bytes


Value: TypeAlias = bytes | Unchanged | Binary | None
"""A value as text in the client encoding, NULL, `UNCHANGED` or a `Binary`."""

Row: TypeAlias = list[Value]
"""The values of a tuple in the order of the relation's columns."""


class PartialRow(list[Value]):
    """A row with values other than text and NULL."""

    __slots__ = ()


@dataclass(slots=True)
class Begin:
    """
    The start of a transaction, which the server sends only once it has committed.

    Attributes:
        commit_lsn: The position of the COMMIT record, which identifies the
            transaction.
        timestamp: The commit time as an aware datetime in UTC.
        xid: The 32-bit transaction ID.
    """

    commit_lsn: Lsn
    timestamp: datetime
    xid: int


@dataclass(slots=True)
class Commit:
    """
    The end of a transaction.

    Attributes:
        flags: Unused by the protocol.
        commit_lsn: The position of the COMMIT record, as in `Begin`.
        end_lsn: The position after the COMMIT record. Confirming it acknowledges the
            transaction.
        timestamp: The commit time as an aware datetime in UTC.
    """

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    timestamp: datetime


@dataclass(slots=True)
class Origin:
    """The origin of a replicated transaction: its name and the position there."""

    lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of a relation.

    Attributes:
        name: The unquoted name, as in the system catalog.
        type_oid: The OID of the data type.
        type_modifier: ``atttypmod``; -1 if the type has no modifier.
        is_key: Whether the column is part of the replica identity.
    """

    name: str
    type_oid: int
    type_modifier: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """
    The definition of a table, sent before its first row and after each change to it.

    Attributes:
        replica_identity: ``pg_class.relreplident``: ``d``, ``n``, ``f`` or ``i``.
    """

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """The name of a type that isn't built in; for a domain, that of its base type."""

    oid: int
    schema: str
    name: str


@dataclass(slots=True)
class Insert:
    """An inserted row."""

    relation_oid: int
    new: Row


@dataclass(slots=True)
class Update:
    """
    An updated row.

    Attributes:
        key: The old row with the key columns only (the others are NULL); sent if the
            key changed.
        old: The complete old row; sent with REPLICA IDENTITY FULL.
    """

    relation_oid: int
    key: Row | None
    old: Row | None
    new: Row


@dataclass(slots=True)
class Delete:
    """A deleted row. Exactly one of ``key`` and ``old`` is set; see `Update`."""

    relation_oid: int
    key: Row | None
    old: Row | None


@dataclass(slots=True)
class Truncate:
    """The tables that one TRUNCATE command emptied."""

    relation_oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(slots=True)
class LogicalMessage:
    """
    A message written with ``pg_logical_emit_message()``.

    Attributes:
        transactional: Whether the message is part of a transaction.
        lsn: The position of the message.
    """

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


RowMessage: TypeAlias = Insert | Update | Delete
Message: TypeAlias = (
    Begin
    | Commit
    | Origin
    | Relation
    | Type
    | Insert
    | Update
    | Delete
    | Truncate
    | LogicalMessage
)
