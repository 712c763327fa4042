"""Text of PostgreSQL to Python values, by psycopg's loaders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.pq import Format
from psycopg.types.datetime import IntervalLoader
from psycopg.types.json import JsonbLoader

from .messages import UNCHANGED, Binary, PartialRow, Value

JSON = psycopg.adapters.types["json"].oid
JSONB = psycopg.adapters.types["jsonb"].oid
INTERVAL = psycopg.adapters.types["interval"].oid
_raw_decode = json.JSONDecoder().raw_decode


def decode_json(text: str) -> Any:
    """Return the value of a jsonb's text, which has no blanks around it."""
    return _raw_decode(text)[0]


class FastJsonbLoader(Loader):
    """
    Loads jsonb as psycopg does, at half the cost.

    Blanks and the encoding, which is pinned, need not be looked for.
    """

    def load(self, data: Buffer) -> Any:  # noqa: D102
        return decode_json(str(data, "utf-8"))


class PinnedIntervalLoader(IntervalLoader):
    """
    Loads intervals without asking a connection for its IntervalStyle, which is pinned.

    For psycopg's loader in C too: where that overflows, it loads another interval.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._load_method = self._load_postgres


def fitting(adapters: AdaptersMap) -> AdaptersMap:
    """
    Return a copy of ``adapters`` that needs no connection and loads jsonb sooner.

    Loaders that somebody registered are left as they are.
    """
    copy = AdaptersMap(adapters)
    jsonb = copy.get_loader(JSONB, Format.TEXT)
    # set_json_loads() leaves the class and changes what it calls.
    if jsonb is JsonbLoader and jsonb(JSONB).loads is json.loads:
        copy.register_loader(JSONB, FastJsonbLoader)
    interval = copy.get_loader(INTERVAL, Format.TEXT)
    if interval and interval.__module__.startswith("psycopg"):
        copy.register_loader(INTERVAL, PinnedIntervalLoader)
    return copy


class ExactText(str):
    """
    The text of a value that Python cannot hold, as the server sent it.

    An infinite date, a year beyond 9999 or before Christ, 24:00:00 come so.
    """

    __slots__ = ()

    @classmethod
    def of(cls, text: bytes) -> ExactText:
        """Return a text; of a database in SQL_ASCII, its bytes may be no UTF-8."""
        return cls(text.decode(errors="surrogateescape"))

    def __repr__(self) -> str:
        return f"ExactText({super().__repr__()})"


class RowLoader:
    """
    Loads the rows of one relation.

    Args:
        oids: types of the columns.
        adapters: psycopg's map from types to loaders, by default its global one.

    Attributes:
        load_quickly: loads a row in one call. Not for a `PartialRow`, and it raises at
            values that Python cannot hold.
    """

    __slots__ = ("_oids", "_transformer", "load_quickly")

    def __init__(
        self, oids: Sequence[int], adapters: AdaptersMap | None = None
    ) -> None:
        self._oids = list(oids)
        self._transformer = Transformer(fitting(adapters or psycopg.adapters))
        self._transformer.set_loader_types(self._oids, Format.TEXT)
        self.load_quickly: Callable[[Sequence[Any]], tuple[Any, ...]] = (
            self._transformer.load_sequence
        )

    def load(self, row: Sequence[Value]) -> tuple[Any, ...]:
        """
        Return the Python values of a row, one for each column.

        `ExactText` stands where Python cannot hold the value; `UNCHANGED` stays.
        """
        if type(row) is not PartialRow:
            with suppress(Exception):  # see load_one
                return self.load_quickly(row)
        return tuple(map(self.load_one, range(len(row)), row))

    def load_one(self, index: int, value: Value) -> Any:
        """Return the Python value of one column, as in `load`."""
        if value is None or value is UNCHANGED:
            return value
        if isinstance(value, Binary):
            loader = self._transformer.get_loader(self._oids[index], Format.BINARY)
            try:
                return loader.load(value.data)
            except Exception:  # noqa: BLE001
                return value.data
        try:
            return self._transformer.get_loader(self._oids[index], Format.TEXT).load(
                value
            )
        except Exception:  # noqa: BLE001
            # Loaders raise whatever their parsers do: DataError, ValueError,
            # OverflowError, NotImplementedError, RecursionError of json …
            return ExactText.of(value)
