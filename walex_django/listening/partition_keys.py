"""The key columns of partitions that are published under the name of another table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import Relation

Place: TypeAlias = tuple[Lsn, int]
"""The COMMIT of a transaction, and the number of rows that precede in it."""


class PartitionKeys:
    """
    Records which partitions send only the keys of old rows, according to the stream.

    With ``publish_via_partition_root``, the server marks the old row of an UPDATE or a
    DELETE as a key or a whole row according to the replica identity of the published
    root. The columns that it contains depend on the partition's own replica identity.
    The system catalog cannot tell: an unread row may have been written before the
    replica identity was changed.

    The stream itself contains this information. Before the first row of a partition,
    and again after each change of its definition, the server describes the root and
    then the partition, with its replica identity at that position of the WAL.

    Source: PostgreSQL, ``maybe_send_schema()`` in ``pgoutput.c``.
    """

    def __init__(self) -> None:
        # By root and partition: the column names of the key, `None` if unknown.
        self._keys: dict[int, dict[int, frozenset[str] | None]] = {}
        self._last: tuple[Relation, Place] | None = None
        self._added: list[tuple[int, int]] = []  # at the place of `_last`

    def add(self, relation: Relation, place: Place) -> int | None:
        """
        Add a relation.

        Args:
            relation: The message.
            place: The relation's place in the stream. Without a row in between, the
                second of two relations is a partition of the first.

        Returns:
            The OID of the root if the relation is a partition.
        """
        last, self._last = self._last, (relation, place)
        if last is None or last[1] != place:
            self._added = []
            return None
        root = last[0]
        self._added.append((root.oid, relation.oid))
        keys = self._keys.setdefault(root.oid, {})
        keys.pop(relation.oid, None)
        if relation.replica_identity != "f":
            key = _key(relation, root)
            # Without a key, the server refuses UPDATE and DELETE.
            if key is None or key:
                keys[relation.oid] = key
        return root.oid

    def discard(self, place: Place) -> list[int]:
        """
        Forget the partitions added at a place: the relations are those of a TRUNCATE.

        Args:
            place: The place of the TRUNCATE.

        Returns:
            The OIDs of the tables that counted as their roots.
        """
        if self._last is None or self._last[1] != place:
            return []
        added, self._added = self._added, []
        for root, partition in added:
            self._keys[root].pop(partition, None)
        return [root for root, _ in added]

    def indexes(
        self, root: int, columns: Sequence[str]
    ) -> frozenset[frozenset[int] | None]:
        """
        Return the keys of a table's partitions as indexes of the table's columns.

        Args:
            root: The table's OID.
            columns: The names of its columns.
        """
        return frozenset(
            None if key is None else _indexes(key, columns)
            for key in set(self._keys.get(root, {}).values())
        )


def _key(partition: Relation, root: Relation) -> frozenset[str] | None:
    """Return the key columns of a partition, or `None` if they are unknown."""
    # A column list refers to the root's columns. For a partition that has its columns
    # in another order, the server then describes the wrong ones.
    if {c.name for c in partition.columns} != {c.name for c in root.columns}:
        return None
    return frozenset(column.name for column in partition.columns if column.is_key)


def _indexes(key: Collection[str], columns: Sequence[str]) -> frozenset[int]:
    return frozenset(index for index, name in enumerate(columns) if name in key)
