from __future__ import annotations

import functools
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads

from walex_django.pgoutput.messages import UNCHANGED, Binary, PartialRow, Value
from walex_django.pgoutput.values import JSONB, ExactText, RowLoader, stream_adapters

UNKNOWN = 4_000_000_000


def oid(type_name: str) -> int:
    if type_name == "unknown to psycopg":
        return UNKNOWN
    info = psycopg.adapters.types[type_name.removesuffix("[]")]
    return info.array_oid if type_name.endswith("[]") else info.oid


def load(type_name: str, value: Value, adapters: AdaptersMap | None = None) -> Any:
    """Return the value of a row's only column."""
    plain = value is None or isinstance(value, bytes)
    row = [value] if plain else PartialRow([value])
    (loaded,) = RowLoader([oid(type_name)], adapters).load(row)
    return loaded


@pytest.mark.parametrize(
    ("type_name", "text", "value"),
    [
        ("text", "", ""),
        ("text", "Zoë 🦓", "Zoë 🦓"),
        ("text", "infinity", "infinity"),
        ("int8", "-9223372036854775808", -(2**63)),
        ("numeric", "4.20", Decimal("4.20")),
        ("numeric", "1" + "0" * 5000, Decimal(10) ** 5000),
        ("numeric", "Infinity", Decimal("Infinity")),
        ("numeric", "-Infinity", Decimal("-Infinity")),
        ("float8", "0.1", 0.1),
        ("bool", "t", True),
        ("bool", "f", False),
        ("date", "0001-01-01", date.min),
        ("date", "9999-12-31", date.max),
        ("time", "23:59:59.999999", time.max),
        ("timestamp", "2024-02-29 12:34:56", datetime(2024, 2, 29, 12, 34, 56)),  # noqa: DTZ001
        (
            "timestamptz",
            "2024-02-29 12:34:56.789012+00",
            datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC),
        ),
        ("interval", "1 day 02:00:00.5", timedelta(days=1, hours=2, seconds=0.5)),
        ("jsonb", '{"a": [1, 2.5, null, "ü"]}', {"a": [1, 2.5, None, "ü"]}),
        ("jsonb", "null", None),
        ("json", ' {"a": 1} ', {"a": 1}),
        (
            "uuid",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
        ("bytea", r"\x00ff5c", b"\x00\xff\\"),
        ("int4[]", "{{1,2},{3,NULL}}", [[1, 2], [3, None]]),
        ("text[]", r'{a,"b,\"c\"",NULL,"NULL"}', ["a", 'b,"c"', None, "NULL"]),
        ("jsonb[]", r'{"{\"a\": 1}",NULL}', [{"a": 1}, None]),
        ("unknown to psycopg", "(1,ok)", "(1,ok)"),
    ],
)
def test_text_becomes_the_python_value(type_name: str, text: str, value: Any) -> None:
    loaded = load(type_name, text.encode())

    assert loaded == value
    assert type(loaded) is type(value)


def test_numeric_nan_becomes_the_decimal() -> None:
    loaded = load("numeric", b"NaN")

    assert isinstance(loaded, Decimal)
    assert loaded.is_nan()


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("date", "infinity"),
        ("date", "-infinity"),
        ("date", "0044-03-15 BC"),
        ("date", "10000-01-01"),
        ("time", "24:00:00"),
        ("timestamp", "0044-03-15 12:00:00 BC"),
        ("timestamptz", "infinity"),
        ("timestamptz", "10000-01-01 00:00:00+00"),
        ("interval", "1000000000 days"),
        ("date[]", "{2024-02-29,infinity}"),
        ("daterange", "[2024-02-29,infinity)"),
        ("jsonb", "[" * 100_000 + "]" * 100_000),
        ("jsonb", "1" * 5000),
    ],
    ids=lambda argument: argument[:30],
)
def test_value_that_python_cannot_hold_is_loaded_as_exact_text(
    type_name: str, text: str
) -> None:
    loaded = load(type_name, text.encode())

    assert type(loaded) is ExactText
    assert loaded == text


@pytest.mark.parametrize("type_name", ["text", "varchar", "unknown to psycopg"])
def test_bytes_that_are_not_utf_8_can_be_recovered(type_name: str) -> None:
    loaded = load(type_name, b"caf\xe9")

    assert type(loaded) is ExactText
    assert loaded.encode(errors="surrogateescape") == b"caf\xe9"


def test_one_exact_text_leaves_the_rest_of_the_row_loaded() -> None:
    loader = RowLoader([oid("int8"), oid("date"), oid("jsonb"), oid("bool")])

    assert loader.load([b"1", b"infinity", b"[1]", None]) == (1, "infinity", [1], None)


@pytest.mark.parametrize(
    "type_name",
    ["text", "jsonb", "json", "numeric", "bytea", "text[]", "unknown to psycopg"],
)
def test_unchanged_and_null_are_preserved(type_name: str) -> None:
    loader = RowLoader([oid("int8"), oid(type_name), oid(type_name)])

    assert loader.load(PartialRow([b"1", UNCHANGED, None])) == (1, UNCHANGED, None)


@pytest.mark.parametrize(
    ("type_name", "data", "value"),
    [
        ("int8", b"\0\0\0\0\0\0\0\7", 7),
        ("numeric", b"\0\2\0\0\0\0\0\2\0\1\x13\x88", Decimal("1.50")),
        ("text", b"Rex", "Rex"),
        ("bool", b"\1", True),
        ("bytea", b"\0\xff", b"\0\xff"),
        ("jsonb", b'\1{"a": 1}', {"a": 1}),
    ],
)
def test_binary_values_are_loaded(type_name: str, data: bytes, value: Any) -> None:
    loaded = load(type_name, Binary(data))

    assert loaded == value
    assert type(loaded) is type(value)


def test_binary_and_text_can_be_mixed_in_one_row() -> None:
    loader = RowLoader([oid("int8"), oid("int8"), oid("text")])

    assert loader.load(PartialRow([Binary(b"\0\0\0\0\0\0\0\7"), b"7", UNCHANGED])) == (
        7,
        7,
        UNCHANGED,
    )


def test_columns_of_a_row_can_be_loaded_alone() -> None:
    loader = RowLoader([oid("int8"), oid("date"), oid("text")])
    row = PartialRow([b"1", b"infinity", UNCHANGED])

    assert tuple(map(loader.load_one, range(3), row)) == loader.load(row)


def test_quick_load_raises_for_values_that_python_cannot_hold() -> None:
    with pytest.raises(psycopg.DataError):
        RowLoader([oid("date")]).load_quickly([b"infinity"])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_jsonb_is_parsed_like_json_loads(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)

    # repr, because 1 == 1.0 == True.
    assert repr(load("jsonb", text.encode())) == repr(json.loads(text))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_text_is_loaded_unchanged(text: str) -> None:
    for type_name in ("text", "unknown to psycopg"):
        assert load(type_name, text.encode()) == text


@given(
    st.sampled_from(
        ["text", "int8", "numeric", "date", "timestamptz", "jsonb", "uuid", "int4[]"]
    ),
    st.binary(),
)
def test_no_bytes_can_make_a_row_fail(type_name: str, data: bytes) -> None:
    loaded = load(type_name, data)

    if type(loaded) is ExactText:
        assert loaded.encode(errors="surrogateescape") == data


class ShoutingLoader(Loader):
    def load(self, data: Buffer) -> str:
        return str(data, "utf-8").upper()


def test_registered_jsonb_loader_is_respected() -> None:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("jsonb", ShoutingLoader)

    assert load("jsonb", b'{"a": 1}', adapters) == '{"A": 1}'
    assert stream_adapters(adapters).get_loader(JSONB, Format.TEXT) is ShoutingLoader


def test_json_function_set_on_the_adapters_is_respected() -> None:
    adapters = AdaptersMap(psycopg.adapters)
    set_json_loads(functools.partial(json.loads, parse_float=Decimal), adapters)

    assert load("jsonb", b"[1.10]", adapters) == [Decimal("1.10")]


def test_json_function_set_for_all_is_respected() -> None:
    set_json_loads(functools.partial(json.loads, parse_float=Decimal))
    try:
        assert load("jsonb", b"[1.10]") == [Decimal("1.10")]
    finally:
        set_json_loads(json.loads)


def test_unchanged_never_reaches_a_loader() -> None:
    class Greedy(Loader):
        def load(self, data: Buffer) -> str:
            return str(data)

    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("text", Greedy)

    assert load("text", UNCHANGED, adapters) is UNCHANGED


def test_binary_value_that_python_cannot_hold_is_loaded_as_bytes() -> None:
    assert load("date", Binary(b"\x7f\xff\xff\xff")) == b"\x7f\xff\xff\xff"


def test_given_adapters_are_not_changed() -> None:
    adapters = AdaptersMap(psycopg.adapters)
    before = adapters.get_loader(JSONB, Format.TEXT)

    assert stream_adapters(adapters).get_loader(JSONB, Format.TEXT) is not before
    assert adapters.get_loader(JSONB, Format.TEXT) is before
