"""Sizes and ages are parsed and formatted."""

from __future__ import annotations

from datetime import timedelta

import pytest

from walex_django.units import format_size, parse_age, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("10B", 10),
        ("64kB", 65536),
        ("500 MB", 500 * 2**20),
        ("1GB", 2**30),
        ("1gb", 2**30),
        ("1.5GB", 3 * 2**29),
        ("2TB", 2**41),
    ],
)
def test_valid_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "1XB", "-1", "1 G B", "1e9", "\u0661", "9" * 400]
)
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a valid size: write a number and kB, MB"
    ):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("0s", timedelta(0)),
        ("60s", timedelta(minutes=1)),
        ("90m", timedelta(hours=1.5)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
    ],
)
def test_valid_ages(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize(
    "text", ["", "60", "s", "1w", "-1s", "1.5h", "\u0661s", "9" * 400 + "d"]
)
def test_invalid_ages(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a valid age: write a number and s, m, h or d"
    ):
        parse_age(text)


@pytest.mark.parametrize("size", [0, 1023, 1536, 300 * 2**20, 5 * 2**40])
def test_formatted_size_can_be_parsed(size: int) -> None:
    assert parse_size(format_size(size)) == size
