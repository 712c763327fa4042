"""The types of columns: their names and the loaders of their values."""

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
    The type of a column, and the loader of its values.

    Attributes:
        name: The SQL name, such as ``"bigint"``, ``"text[]"`` or ``"shop.mood"``.
        oid: The OID of the type that the ORM gets: for a domain, its base type.
        base: The SQL name of that type.
        record_oid: The OID of the type whose loader reads the values for records. It
            is known to psycopg.
    """

    name: str
    oid: int
    base: str
    record_oid: int

    @classmethod
    def known(cls, oid: int, name: str) -> ColumnType:
        """Return a type that has its own loader."""
        return cls(name, oid, name, oid)


class ColumnTypes:
    """
    The types of a database, including user-defined ones.

    Each type is looked up once, with an ordinary query.

    Args:
        alias: The database alias.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._messages: dict[int, Type] = {}
        self._types: dict[int, ColumnType] = {}

    def add(self, message: Type) -> None:
        """Record a type message, which the stream sends before the type's first use."""
        if self._messages.get(message.oid) != message:
            self._messages[message.oid] = message
            self._types.pop(message.oid, None)

    def resolve(self, oids: Collection[int]) -> list[ColumnType]:
        """Return the types with these OIDs, in the same order."""
        unknown = set(oids) - self._types.keys()
        if unknown:
            self._resolve(unknown)
        return [self._types[oid] for oid in oids]

    def _resolve(self, oids: set[int]) -> None:
        rows: dict[int, _Row] = {}
        seen: set[int] = set()
        pending = oids
        while pending := {oid for oid in pending - seen if not known_type(oid)}:
            seen |= pending
            found = query(self._alias, _TYPES, [[*pending]])
            rows |= {oid: _Row(*row) for oid, *row in found}
            pending = {row.part for row in rows.values() if row.part}
        for oid in oids:
            self._types[oid] = self._type(oid, rows)

    def _type(self, oid: int, rows: Mapping[int, _Row]) -> ColumnType:
        if (known := known_type(oid)) is not None:
            return known
        row = rows.get(oid)
        if row is None:
            return self._dropped_type(oid)
        if not row.part:
            return ColumnType(row.name, oid, row.name, _TEXT)
        part = self._type(row.part, rows)
        if row.is_domain:
            return ColumnType(row.name, part.oid, part.base, part.record_oid)
        return ColumnType(row.name, oid, row.name, _array_of(part, row.delimiter))

    def _dropped_type(self, oid: int) -> ColumnType:
        """Return a type that was dropped since, as the stream described it."""
        message = self._messages.get(oid)
        if message is None:
            return ColumnType(f"oid {oid}", oid, f"oid {oid}", _TEXT)
        if message.schema == "pg_catalog":  # for a domain, only its base type is sent
            name = message.name
            element, array = name.removeprefix("_"), name.startswith("_")
            if info := psycopg.adapters.types.get(element):
                base = info.array_oid if array else info.oid
                return known_type(base) or ColumnType.known(base, name)
        return ColumnType(message.name, oid, message.name, _TEXT)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    is_domain: bool
    part: int  # the OID of a domain's base or an array's element type, or 0
    delimiter: str


_TYPES = """
SELECT type.oid, pg_catalog.format_type(type.oid, NULL), type.typtype = 'd',
    CASE WHEN type.typtype = 'd' THEN type.typbasetype
        WHEN type.typcategory = 'A' THEN type.typelem ELSE 0 END::bigint,
    type.typdelim::text
FROM pg_catalog.pg_type AS type WHERE type.oid = ANY(%s::oid[])
"""


def known_type(oid: int) -> ColumnType | None:
    """Return a type that is built into psycopg or registered with it."""
    info = psycopg.adapters.types.get(oid)
    if info is None:
        return None
    if oid >= _FIRST_USER_OID and not psycopg.adapters.get_loader(oid, Format.TEXT):
        return None  # only its name was registered, not a loader
    return ColumnType.known(
        oid, info.regtype if oid == info.oid else f"{info.regtype}[]"
    )


def _array_of(element: ColumnType, delimiter: str) -> int:
    """Return the OID of the type whose loader reads an array, or that of text."""
    info = psycopg.adapters.types.get(element.record_oid)
    assert info
    if info.oid != element.record_oid:  # elements that are arrays are loaded as text
        info = psycopg.adapters.types["text"]
    return info.array_oid if info.delimiter == delimiter else _TEXT
