"""Values are masked in text."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from walex_django.events.masking import MASK, Mask


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("ada@example.org", "no mail to ada@example.org!", f"no mail to {MASK}!"),
        ("ada@example.org", "no mail to ADA@Example.org!", f"no mail to {MASK}!"),
        (
            'O\'Neil "x"',
            f"got {'O' + chr(39) + 'Neil ' + chr(34) + 'x' + chr(34)!r}",
            f"got '{MASK}'",
        ),
        (
            "Käfig 12",
            f"body {json.dumps({'a': 'Käfig 12'})}",
            f'body {{"a": "{MASK}"}}',
        ),
        ("a b@c", f"GET /?q={quote('a b@c')}", f"GET /?q={MASK}"),
        (
            "first line\nsecond line",
            "  | first line\n  | second line",
            f"  | {MASK}\n  | {MASK}",
        ),
        (date(2020, 1, 2), f"on {date(2020, 1, 2)!r}", f"on {MASK}"),
        (
            datetime(2020, 1, 2, 3, tzinfo=UTC),
            "at 2020-01-02T03:00:00+00:00",
            f"at {MASK}",
        ),
        (Decimal("12.50"), "paid 12.50", f"paid {MASK}"),
        (UUID(int=7), f"id {UUID(int=7).hex}", f"id {MASK}"),
        (b"\xde\xad\xbe\xef", "photo \\xdeadbeef", f"photo \\x{MASK}"),
        ({"mail": ["ada@example.org"]}, "to ada@example.org", f"to {MASK}"),
        (True, "it is True, truely", f"it is {MASK}, truely"),
        ("m", "sex 'm' of mammals", f"sex '{MASK}' of mammals"),
        (12, "age 12 of 123", f"age {MASK} of 123"),
        ("ada", "Ada and Adalbert", f"{MASK} and Adalbert"),
    ],
    ids=repr,
)
def test_value_is_masked_in_common_notations(value: Any, text: str, shown: str) -> None:
    assert Mask([value])(text) == shown


def test_long_value_is_masked_where_its_beginning_appears() -> None:
    value = "".join(map(str, range(1000)))
    mask = Mask([value])
    assert mask(f"Failing row contains (1, {value[:64]}..., 2)") == (
        f"Failing row contains (1, {MASK}..., 2)"
    )
    assert mask(f"got {value}!") == f"got {MASK}!"


def test_overlapping_values_are_masked_together() -> None:
    assert Mask(["abcdef", "defghi"])("xabcdefghix") == f"x{MASK}x"


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_empty_value_masks_nothing(value: Any) -> None:
    text = "None of '' at all"
    assert Mask([value])(text) == text


def test_value_is_masked_after_letters_that_change_their_length() -> None:
    assert Mask(["geheim"])("İİİ geheim") == f"İİİ {MASK}"


def test_value_nested_too_deeply_to_be_serialized_is_masked() -> None:
    value: Any = "ada@example.org"
    for _ in range(100_000):
        value = [value]
    assert Mask([value])("to ada@example.org") == f"to {MASK}"


def test_traceback_of_sensitive_columns_is_logged_as_text() -> None:
    error = ValueError("bad ada@example.org")
    assert Mask(["other"], is_needed=False).log(error)[1] is None
    assert Mask().log(error) == ("", error)
    text, exc_info = Mask(["ada@example.org"]).log(error)
    assert exc_info is None
    assert text.endswith(f"ValueError: bad {MASK}")
