"""The types of columns: their names, and how their text is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psycopg
from psycopg.pq import Format

from walex_django.pgoutput.messages import Type

from .catalogue import query

_TEXT = psycopg.adapters.types["text"].oid
_FIRST_USER_OID = 16384


@dataclass(frozen=True, slots=True)
class ColumnType:
    """
    The type of a column, and how its text is read.

    Attributes:
        name: in SQL, such as ``"bigint"``, ``"text[]"`` or ``"shop.mood"``.
        oid: the type that the ORM sees: of a domain, its base.
        base: the name of that.
        record_oid: the type whose loader reads it for records: one that psycopg knows.
    """

    name: str
    oid: int
    base: str
    record_oid: int

    @classmethod
    def known(cls, oid: int, name: str) -> ColumnType:
        """Return a type that is read as itself."""
        return cls(name, oid, name, oid)


class ColumnTypes:
    """
    The types of a database, those included that its users have made.

    Each is asked for once, with an ordinary query.

    Args:
        alias: of the database.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._told: dict[int, Type] = {}
        self._types: dict[int, ColumnType] = {}

    def add(self, message: Type) -> None:
        """Take in what the stream says of a type, before its first use."""
        if self._told.get(message.oid) != message:
            self._told[message.oid] = message
            self._types.pop(message.oid, None)

    def resolve(self, oids: Collection[int]) -> list[ColumnType]:
        """Return types by their OIDs, in that order."""
        unknown = set(oids) - self._types.keys()
        if unknown:
            self._resolve(unknown)
        return [self._types[oid] for oid in oids]

    def _resolve(self, oids: set[int]) -> None:
        rows: dict[int, _Row] = {}
        seen: set[int] = set()
        asked = oids
        while asked := {oid for oid in asked - seen if not known_type(oid)}:
            seen |= asked
            found = query(self._alias, _TYPES, [[*asked]])
            rows |= {oid: _Row(*row) for oid, *row in found}
            asked = {row.part for row in rows.values() if row.part}
        for oid in oids:
            self._types[oid] = self._type(oid, rows)

    def _type(self, oid: int, rows: Mapping[int, _Row]) -> ColumnType:
        if (known := known_type(oid)) is not None:
            return known
        row = rows.get(oid)
        if row is None:
            return self._gone(oid)
        if not row.part:
            return ColumnType(row.name, oid, row.name, _TEXT)
        part = self._type(row.part, rows)
        if row.is_domain:
            return ColumnType(row.name, part.oid, part.base, part.record_oid)
        return ColumnType(row.name, oid, row.name, _array_of(part, row.delimiter))

    def _gone(self, oid: int) -> ColumnType:
        """Return what the stream has told of a type that was dropped since."""
        told = self._told.get(oid)
        if told is None:
            return ColumnType(f"oid {oid}", oid, f"oid {oid}", _TEXT)
        if told.schema == "pg_catalog":  # of a domain, only its base is told
            element, array = told.name.removeprefix("_"), told.name.startswith("_")
            if info := psycopg.adapters.types.get(element):
                base = info.array_oid if array else info.oid
                return known_type(base) or ColumnType.known(base, told.name)
        return ColumnType(told.name, oid, told.name, _TEXT)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    is_domain: bool
    part: int  # the domain's base, or the array's element, or 0
    delimiter: str


_TYPES = """
SELECT type.oid, pg_catalog.format_type(type.oid, NULL), type.typtype = 'd',
    CASE WHEN type.typtype = 'd' THEN type.typbasetype
        WHEN type.typcategory = 'A' THEN type.typelem ELSE 0 END::bigint,
    type.typdelim::text
FROM pg_catalog.pg_type AS type WHERE type.oid = ANY(%s::oid[])
"""


def known_type(oid: int) -> ColumnType | None:
    """Return a type that psycopg knows, by itself or because it was taught to."""
    info = psycopg.adapters.types.get(oid)
    if info is None:
        return None
    if oid >= _FIRST_USER_OID and not psycopg.adapters.get_loader(oid, Format.TEXT):
        return None  # its name was registered, and no loader
    return ColumnType.known(
        oid, info.regtype if oid == info.oid else f"{info.regtype}[]"
    )


def _array_of(element: ColumnType, delimiter: str) -> int:
    """Return the type whose loader reads an array; text where there is none."""
    info = psycopg.adapters.types.get(element.record_oid)
    assert info
    if info.oid != element.record_oid:  # of arrays: their text is what an array holds
        info = psycopg.adapters.types["text"]
    return info.array_oid if info.delimiter == delimiter else _TEXT
