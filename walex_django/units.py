"""Human-readable sizes and ages."""

from __future__ import annotations

import re
from datetime import timedelta

from django.utils.formats import number_format

_SIZES = {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?)\s*([kmgt]?b)?", re.ASCII | re.IGNORECASE)
_AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_size(text: str) -> int:
    """
    Parse a size into a number of bytes.

    Args:
        text: A number, optionally followed by kB, MB, GB or TB, in multiples of 1024.

    Raises:
        ValueError: If the text is not a valid size.

    Source: PostgreSQL, "Parameter Names and Values".
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a valid size: write a number and kB, MB, GB or TB, such"
            " as 500MB"
        )
    return int(float(match[1]) * _SIZES[(match[2] or "b").lower()])


def format_size(size: float) -> str:
    """
    Format a number of bytes with a suitable unit.

    Args:
        size: The size in bytes.
    """
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0
    while abs(size) >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    digits = 0 if power == 0 or size >= 100 or size == int(size) else 1
    return f"{number_format(round(size, digits), digits)} {units[power]}"


def parse_count(text: str) -> int:
    """
    Parse a number of things.

    Args:
        text: A number of at most nine digits.

    Raises:
        ValueError: If the text is not such a number.
    """
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"{text!r} is not a valid number: write an integer such as 10")
    return int(text)


def parse_age(text: str) -> timedelta:
    """
    Parse an age.

    Args:
        text: A number followed by s, m, h or d.

    Raises:
        ValueError: If the text is not a valid age.
    """
    match = re.fullmatch(r"(\d{1,8})([smhd])", text, re.ASCII)
    try:
        if match:
            return timedelta(**{_AGES[match[2]]: int(match[1])})
    except OverflowError:
        pass
    raise ValueError(
        f"{text!r} is not a valid age: write a number and s, m, h or d, such as 90m"
    )
