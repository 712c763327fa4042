"""Random rows with values for every field."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.backends.postgresql.psycopg_any import (
    DateRange,
    DateTimeTZRange,
    NumericRange,
)
from hypothesis import strategies as st

from .field_models import Everything
from .literals import TEXT


def or_none(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def integers(bits: int, low: int | None = None) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)) if low is None else low, 2 ** (bits - 1) - 1)


def ranges(make: Any, bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(or_none(bounds), min_size=2, max_size=2).filter(
        lambda pair: None in pair or pair[0] <= pair[1]
    )
    return st.builds(
        lambda pair, ends: make(*pair, ends), pairs, st.sampled_from(["[)", "[]", "()"])
    ) | st.just(make(empty=True))


def moments() -> st.SearchStrategy[datetime]:
    """Return times that every time zone can represent, some while clocks go back."""
    usual = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001
    fall = datetime(2026, 10, 25, tzinfo=UTC)
    odd = st.integers(0, 180).map(lambda m: fall + timedelta(minutes=m))
    aware = usual.map(lambda at: at.replace(tzinfo=UTC)) | odd
    if settings.USE_TZ:
        return aware
    zone = ZoneInfo(settings.TIME_ZONE)
    return aware.map(lambda at: at.astimezone(zone).replace(tzinfo=None))


def decimals(digits: int, places: int) -> st.SearchStrategy[Decimal]:
    most = 10**digits - 1
    return st.integers(-most, most).map(lambda n: Decimal(n).scaleb(-places))


jsons = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def everything(draw: st.DrawFn) -> Everything:
    text = TEXT.map(lambda text: text[:40])
    fields: dict[str, st.SearchStrategy[Any]] = {
        "small": integers(16),
        "integer": integers(32),
        "big": integers(64),
        "positive": integers(32, 0),
        "positive_small": integers(16, 0),
        "positive_big": integers(64, 0),
        "float": st.floats(),
        "decimal": decimals(20, 5),
        "boolean": st.booleans(),
        "choice": st.sampled_from("ab"),
        **dict.fromkeys(("char", "text", "slug", "email", "url", "name"), text),
        **dict.fromkeys(("file", "path", "reversed"), text),
        "date": st.dates(),
        "time": st.times(),
        "moment": moments(),
        "duration": st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
        "uuid": st.uuids(),
        "binary": st.binary(max_size=20),
        **dict.fromkeys(("json", "exact_json"), jsons),
        "address": st.ip_addresses().map(str),
        "texts": st.lists(or_none(text), max_size=3),
        "moments": st.lists(or_none(moments()), max_size=2),
        **dict.fromkeys(("reversed_texts", "names"), st.lists(text, max_size=3)),
        "nested": st.lists(
            st.lists(or_none(decimals(9, 2)), min_size=2, max_size=2), max_size=2
        ),
        "jsons": st.lists(or_none(jsons), max_size=2),
        "integer_range": ranges(NumericRange, integers(31)),
        "big_range": ranges(NumericRange, integers(63)),
        "decimal_range": ranges(NumericRange, decimals(6, 3)),
        "date_range": ranges(DateRange, st.dates(max_value=date(9999, 1, 1))),
        "moment_range": ranges(
            DateTimeTZRange,
            st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(  # noqa: DTZ001
                lambda at: at.replace(tzinfo=UTC)
            ),
        ),
        "ranges": st.lists(
            ranges(DateRange, st.dates(max_value=date(9999, 1, 1))), max_size=2
        ),
        "pairs": st.dictionaries(text, or_none(text), max_size=3),
        "many_pairs": st.lists(
            st.dictionaries(text, or_none(text), max_size=2), max_size=2
        ),
    }
    return Everything(**{name: draw(or_none(each)) for name, each in fields.items()})
