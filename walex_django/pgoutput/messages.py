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
    """Type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for a TOASTed value that did not change and so was not sent (kind ``u``)."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A value in its type's binary format (kind ``b``)."""

    data: bytes


Value: TypeAlias = bytes | Unchanged | Binary | None
"""Text in the server's encoding, NULL, or one of the two above."""

Row: TypeAlias = list[Value]
"""The values of a tuple, in the order of the relation's columns."""


class PartialRow(list[Value]):
    """A row with other values than text and NULL in it."""

    __slots__ = ()


@dataclass(slots=True)
class Begin:
    """
    A transaction starts; it had committed before it was sent.

    Attributes:
        commit_lsn: position of its COMMIT record; identifies the transaction.
        timestamp: commit time, aware, in UTC.
        xid: transaction id of 32 bits.
    """

    commit_lsn: Lsn
    timestamp: datetime
    xid: int


@dataclass(slots=True)
class Commit:
    """
    The transaction ends.

    Attributes:
        flags: unused by the protocol.
        commit_lsn: as in `Begin`.
        end_lsn: position after the COMMIT record: what acknowledges the transaction.
        timestamp: commit time, aware, in UTC.
    """

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    timestamp: datetime


@dataclass(slots=True)
class Origin:
    """The transaction was replicated from elsewhere: its position and name there."""

    lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of a relation.

    Attributes:
        name: as in the catalogue, unquoted.
        type_oid: of its data type.
        type_modifier: ``atttypmod``, -1 where the type has none.
        is_key: part of the replica identity.
    """

    name: str
    type_oid: int
    type_modifier: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """
    Shape of a table, sent before its first row and again after it changed.

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
    """Name of a type that is not built in; for a domain the name of its base type."""

    oid: int
    schema: str
    name: str


@dataclass(slots=True)
class Insert:
    """A new row."""

    relation_oid: int
    new: Row


@dataclass(slots=True)
class Update:
    """
    A changed row.

    Attributes:
        key: the old row, of which only the key columns are known (the others are
            NULL); sent when the key changed.
        old: the whole old row; sent under REPLICA IDENTITY FULL.
    """

    relation_oid: int
    key: Row | None
    old: Row | None
    new: Row


@dataclass(slots=True)
class Delete:
    """A removed row; ``key`` and ``old`` as in `Update`, one of them present."""

    relation_oid: int
    key: Row | None
    old: Row | None


@dataclass(slots=True)
class Truncate:
    """Emptied tables, all of one TRUNCATE command."""

    relation_oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(slots=True)
class LogicalMessage:
    """
    What ``pg_logical_emit_message`` wrote.

    Attributes:
        transactional: part of the transaction around it, else outside of any.
        lsn: position of the message.
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
