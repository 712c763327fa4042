"""Positions in the write-ahead log (WAL)."""

from __future__ import annotations

from string import hexdigits


class Lsn(int):
    """
    A log sequence number: a 64-bit `int` formatted as PostgreSQL formats it.

    >>> Lsn(0x16B3748)
    Lsn('0/16B3748')
    >>> Lsn.parse("0/16B3748") + 0
    23803720

    Source: PostgreSQL, "pg_lsn Type".
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """
        Parse an LSN in PostgreSQL's notation.

        Args:
            text: Two hexadecimal numbers of up to 8 digits each, separated by a slash.

        Raises:
            ValueError: The text has another format.
        """
        high, slash, low = text.partition("/")
        try:
            halves = [int(half, 16) for half in (high, low)]
        except ValueError:
            halves = []
        if not (slash and halves and all(_is_half(half) for half in (high, low))):
            raise ValueError(f"not a log sequence number: {text!r}")
        return cls(halves[0] << 32 | halves[1])

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def _is_half(text: str) -> bool:
    # int() also accepts signs, whitespace, underscores and a prefix.
    return 1 <= len(text) <= 8 and set(text) <= set(hexdigits)
