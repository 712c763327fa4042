"""Text of PostgreSQL to Python values, by psycopg's loaders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.pq import Format
from psycopg.types.json import JsonbLoader

from .messages import UNCHANGED, Binary, Value

JSONB = psycopg.adapters.types["jsonb"].oid
_raw_decode = json.JSONDecoder().raw_decode


def decode_json(text: str) -> Any:
    """Return the value of a jsonb's text, which has no blanks around it."""
    return _raw_decode(text)[0]


class FastJsonbLoader(Loader):
    """
    Loads jsonb as psycopg does, at half the cost.

    Blanks and the encoding, which is pinned, need not be looked for.
    """

    def load(self, data: Buffer) -> Any:
        return decode_json(str(data, "utf-8"))


def faster(adapters: AdaptersMap) -> AdaptersMap:
    """
    Return a copy of ``adapters`` that gives the same values sooner.

    Loaders that somebody registered are left as they are.
    """
    copy = AdaptersMap(adapters)
    if copy.get_loader(JSONB, Format.TEXT) is JsonbLoader:
        copy.register_loader(JSONB, FastJsonbLoader)
    return copy


class ExactText(str):
    """
    The text of a value that Python cannot hold, as the server sent it.

    An infinite date, a year beyond 9999 or before Christ, 24:00:00 come so.
    """

    __slots__ = ()


class RowLoader:
    """
    Loads the rows of one relation.

    Args:
        oids: types of the columns.
        adapters: psycopg's map from types to loaders, by default its global one.

    Attributes:
        load_quickly: loads a row in one call, but raises at values that Python cannot
            hold, and at those that are not text.
    """

    __slots__ = ("_oids", "_transformer", "load_quickly")

    def __init__(
        self, oids: Sequence[int], adapters: AdaptersMap | None = None
    ) -> None:
        self._oids = list(oids)
        self._transformer = Transformer(faster(adapters or psycopg.adapters))
        self._transformer.set_loader_types(self._oids, Format.TEXT)
        self.load_quickly: Callable[[Sequence[Any]], tuple[Any, ...]] = (
            self._transformer.load_sequence
        )

    def load(self, row: Sequence[Value]) -> tuple[Any, ...]:
        """
        Return the Python values of a row, one for each column.

        `ExactText` stands where Python cannot hold the value; `UNCHANGED` stays.
        """
        try:
            return self.load_quickly(row)
        except Exception:
            return tuple(map(self.load_one, range(len(row)), row))

    def load_one(self, index: int, value: Value) -> Any:
        """Return the Python value of one column, as in `load`."""
        if value is None or value is UNCHANGED:
            return value
        if isinstance(value, Binary):
            loader = self._transformer.get_loader(self._oids[index], Format.BINARY)
            return loader.load(value.data)
        try:
            return self._transformer.get_loader(self._oids[index], Format.TEXT).load(
                value
            )
        except Exception:
            # Loaders raise whatever their parsers do: DataError, ValueError,
            # OverflowError, NotImplementedError, RecursionError of json …
            # A database in SQL_ASCII may hold bytes that are no UTF-8.
            return ExactText(value.decode(errors="surrogateescape"))
