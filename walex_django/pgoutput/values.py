"""Convert PostgreSQL's text format to Python values with psycopg's loaders."""

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
    """Return the value of a jsonb text, which has no surrounding whitespace."""
    return _raw_decode(text)[0]


class FastJsonbLoader(Loader):
    """
    Loads jsonb as psycopg does, at half the cost.

    It skips the detection of whitespace and of the encoding, which is pinned.
    """

    def load(self, data: Buffer) -> Any:  # noqa: D102
        return decode_json(str(data, "utf-8"))


class PinnedIntervalLoader(IntervalLoader):
    """
    Loads intervals without a connection to query IntervalStyle, which is pinned.

    It also replaces psycopg's C loader, which returns a wrong interval on overflow.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._load_method = self._load_postgres


def stream_adapters(adapters: AdaptersMap) -> AdaptersMap:
    """
    Return a copy of ``adapters`` that needs no connection and loads jsonb faster.

    Loaders registered by other code are kept.
    """
    copy = AdaptersMap(adapters)
    jsonb = copy.get_loader(JSONB, Format.TEXT)
    # set_json_loads() keeps the class and replaces the function that it calls.
    if jsonb is JsonbLoader and jsonb(JSONB).loads is json.loads:
        copy.register_loader(JSONB, FastJsonbLoader)
    interval = copy.get_loader(INTERVAL, Format.TEXT)
    if interval and interval.__module__.startswith("psycopg"):
        copy.register_loader(INTERVAL, PinnedIntervalLoader)
    return copy


class ExactText(str):
    """
    The server's text for a value that Python can't represent.

    Examples are infinite dates, years after 9999 or before Christ, and 24:00:00.
    """

    __slots__ = ()

    @classmethod
    def of(cls, text: bytes) -> ExactText:
        """Decode text that may not be UTF-8, as in a database with SQL_ASCII."""
        return cls(text.decode(errors="surrogateescape"))

    def __repr__(self) -> str:
        return f"ExactText({super().__repr__()})"


class RowLoader:
    """
    Loads the rows of one relation.

    Args:
        oids: The type OIDs of the columns.
        adapters: psycopg's map from types to loaders; the global one by default.

    Attributes:
        load_quickly: A function that loads a row in one call. It doesn't support a
            `PartialRow`, and raises on values that Python can't represent.
    """

    __slots__ = ("_oids", "_transformer", "load_quickly")

    def __init__(
        self, oids: Sequence[int], adapters: AdaptersMap | None = None
    ) -> None:
        self._oids = list(oids)
        self._transformer = Transformer(stream_adapters(adapters or psycopg.adapters))
        self._transformer.set_loader_types(self._oids, Format.TEXT)
        self.load_quickly: Callable[[Sequence[Any]], tuple[Any, ...]] = (
            self._transformer.load_sequence
        )

    def load(self, row: Sequence[Value]) -> tuple[Any, ...]:
        """
        Return the Python values of a row, one for each column.

        A value that Python can't represent becomes an `ExactText`. `UNCHANGED` is
        kept.
        """
        if type(row) is not PartialRow:
            with suppress(Exception):  # see load_one()
                return self.load_quickly(row)
        return tuple(map(self.load_one, range(len(row)), row))

    def load_one(self, index: int, value: Value) -> Any:
        """Return the Python value of one column; see `load`."""
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
            # Loaders raise whatever their parsers raise: DataError, ValueError,
            # OverflowError, NotImplementedError, RecursionError from json, …
            return ExactText.of(value)
