"""Strategies for literals of PostgreSQL's types."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from hypothesis import strategies as st

Literals = st.SearchStrategy[str]

_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# These have a meaning in the syntax of PostgreSQL, JSON or Python.
_AWKWARD = st.sampled_from(
    [*"'\"\\{}()[],;:<>&*!| \n\r\t\u2028é🦓", "NULL", "null", "NaN", "infinity", r"\N"]
)
TEXT = st.lists(_CHARACTERS | _AWKWARD, max_size=12).map("".join)


def _integers(bits: int) -> Literals:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return (st.integers(low, high) | st.sampled_from([low, high])).map(str)


def _floats(width: Any) -> Literals:
    smallest = {32: "1.401298464324817e-45", 64: "5e-324"}[width]
    finite = st.floats(width=width).map(repr)
    return finite | st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", smallest])


_finite = st.floats(allow_nan=False, allow_infinity=False).map(repr)
_numbers = st.builds(
    "{}e{}".format, st.integers(-(10**60), 10**60), st.integers(-300, 300)
)
_numeric = _numbers | st.sampled_from(
    [
        *("NaN", "Infinity", "-Infinity", "0", "0.00", "-0", "1.10"),
        *("1e-16383", "1e131071", "9" * 5000 + "." + "9" * 5000),
    ]
)
_dates = st.dates().map(str) | st.sampled_from(
    [
        *("infinity", "-infinity", "4714-11-24 BC", "0001-12-31 BC", "0001-01-01"),
        *("9999-12-31", "10000-01-01", "5874897-12-31"),
    ]
)
_times = st.times().map(str) | st.sampled_from(["24:00:00", "23:59:59.999999"])
_offsets = st.sampled_from(["+00", "+15:59:59", "-15:59:59", "+05:45", "-03:30", "+02"])
_timestamps = st.datetimes().map(str) | st.sampled_from(
    [
        *("infinity", "-infinity", "4714-11-24 00:00:00 BC", "0001-01-01 00:00:00"),
        *("9999-12-31 23:59:59.999999", "294276-12-31 23:59:59.999999"),
    ]
)
_timestamptz = st.builds("{}{}".format, st.datetimes(), _offsets) | st.sampled_from(
    [
        *("infinity", "-infinity", "9999-12-31 23:59:59-12", "0001-01-01 00:00:00+12"),
        *(
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59+00",
            "10000-01-01 00:00:00+00",
        ),
    ]
)
_intervals = st.builds(
    "{} mons {} days {} hours {} microseconds".format,
    st.integers(-20_000, 20_000),
    st.integers(-20_000, 20_000),
    st.integers(-1000, 1000),
    st.integers(-(10**12), 10**12),
) | st.sampled_from(
    [
        *("2700000 years", "-2700000 years", "2147483647 days", "-1 day +00:00:01"),
        *("00:00:00", "-00:00:00.000001", "1 mon -1 day", "2562047787 hours"),
        *("999999999 days 24:00:00", "-999999999 days"),
    ]
)
_plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_CHARACTERS, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(_CHARACTERS, max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
JSON_TEXTS = [
    *("null", '"null"', '""', "0", "-0", "-0.0", "1.10", "1e2", "[]", "{}", "[null]"),
    *("12345678901234567890123456789", "0.12345678901234567890123456789"),
    *('{"a": 1, "b": {"a": 2}, "a": 3}', '{"b": 1, "aa": 2}', " [1 , 2] "),
    *(r'"\ud83e\udd93 \u00e9 \n \" \\ \/"', '"infinity"', '{"__proto__": "NaN"}'),
    *('{"walex_django.ExactText": "1"}', '{"walex_django.ExactText": 1}'),
    # Too large for a float, and too many digits for int().
    *("1e308", "-1e400", "[1e400, 2]", "1" + "0" * 5000),
]
_jsonb = st.one_of(
    st.builds(
        lambda value, plain: json.dumps(value, ensure_ascii=plain),
        _plain_json,
        st.booleans(),
        # jsonb does not support NUL.
    ).filter(lambda text: r"\u0000" not in text),
    st.sampled_from(JSON_TEXTS),
)
_json = _jsonb | st.sampled_from([r'"\u0000"', r'"\ud83e"', '\n{"a" :\t1.50}\n'])


def _cidr(address: Any, share: float) -> str:
    prefix = int(address.max_prefixlen * share)
    return str(ipaddress.ip_network((address, prefix), strict=False))


_hosts = st.ip_addresses()
_inet = st.builds(
    lambda address, share: f"{address}/{int(address.max_prefixlen * share)}",
    _hosts,
    st.floats(0, 1),
) | _hosts.map(str)
_cidrs = st.builds(_cidr, _hosts, st.floats(0, 1))
_points = st.builds("({},{})".format, _finite, _finite)
_paths = st.lists(_points, min_size=1, max_size=4).map(",".join)
_words = TEXT.filter(bool).map(
    lambda text: "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
)
_weights = st.sampled_from(["", ":1", ":3A,5B", ":16383"])
_lexemes = st.builds("{}{}".format, _words, _weights)
_queries = st.recursive(
    st.builds("{}{}".format, _words, st.sampled_from(["", ":*", ":AB"])),
    lambda query: (
        st.builds(
            "({} {} {})".format, query, st.sampled_from(["&", "|", "<->", "<3>"]), query
        )
        | query.map("!{}".format)
    ),
    max_leaves=4,
)
_u64 = st.integers(0, 2**64 - 1)


def quoted(text: str) -> str:
    """Return an array element or a range bound in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', r"\"") + '"'


def arrays(elements: Literals, delimiter: str = ",") -> Literals:
    """Return one- and two-dimensional arrays, some with NULLs or lower bounds."""
    # Long and deep values are already tested outside of arrays.
    items = st.none() | elements.filter(lambda text: len(text) < 200)
    shown = items.map(lambda item: "NULL" if item is None else quoted(item))

    def braced(items: list[str]) -> str:
        return "{" + delimiter.join(items) + "}"

    rows = st.lists(shown, max_size=4).map(braced)
    pairs = st.lists(shown, min_size=2, max_size=2).map(braced)
    tables = st.lists(pairs, min_size=1, max_size=3).map(braced)
    shifted = st.lists(shown, min_size=2, max_size=2).map(
        lambda items: "[-1:0]=" + braced(items)
    )
    return rows | tables | shifted


def _ranges(bounds: st.SearchStrategy[Any], show: Callable[[Any], str]) -> Literals:
    """Return ranges with ordered bounds; a bound may be absent."""

    def written(pair: list[Any], ends: str, absent: int) -> str:
        low, high = (quoted(show(bound)) for bound in sorted(pair))
        low, high = (low, "", low, "")[absent], (high, high, "", "")[absent]
        return f"{ends[0]}{low},{high}{ends[1]}"

    return st.just("empty") | st.builds(
        written,
        st.lists(bounds, min_size=2, max_size=2),
        st.sampled_from(["[]", "[)", "(]", "()"]),
        st.sampled_from([0, 0, 0, 1, 2, 3]),
    )


def _multiranges(ranges: Literals) -> Literals:
    return st.lists(ranges, max_size=3).map(lambda each: "{" + ",".join(each) + "}")


_INFINITE = st.sampled_from(
    [
        "[-infinity,infinity]",
        "[2020-01-01,infinity)",
        "(,9999-12-31]",
        "[0044-03-15 BC,)",
    ]
)
_days = _ranges(st.dates(), str) | _INFINITE
_moments = _ranges(st.datetimes(), str) | _INFINITE
_RANGES = {
    "int4range": _ranges(st.integers(-(2**31), 2**31 - 2), str),
    "int8range": _ranges(st.integers(-(2**63), 2**63 - 2), str),
    "numrange": _ranges(st.decimals(-1000, 1000, places=3), str)
    | st.sampled_from(["[1.10,NaN]", "[-Infinity,Infinity]", "(1e-300,1e300)"]),
    "daterange": _days,
    "tsrange": _moments,
    "tstzrange": _moments,
}

XML = TEXT.map(lambda text: "".join(filter(str.isprintable, text))).map(
    lambda text: f"<a b='1'>{escape(text)}</a> "
)
"""Literals of xml, for servers built with libxml."""

LITERALS: dict[str, Literals] = {
    "smallint": _integers(16),
    "integer": _integers(32),
    "bigint": _integers(64),
    "real": _floats(32),
    "double precision": _floats(64),
    "numeric": _numeric,
    "numeric(12,3)": st.integers(1 - 10**9, 10**9 - 1).map(str) | st.just("NaN"),
    "numeric(3,-2)": st.integers(-90000, 90000).map(str),
    "money": st.decimals(-(10**12), 10**12, places=2).map(str),
    "text": TEXT,
    "varchar(20)": TEXT.map(lambda text: text[:20]),
    "char(20)": TEXT.map(lambda text: text[:20]),
    "name": TEXT.map(lambda text: text[:15]),
    '"char"': TEXT,
    "bytea": st.binary(max_size=30).map(lambda data: rf"\x{data.hex()}"),
    "boolean": st.sampled_from(["true", "false"]),
    "date": _dates,
    "time": _times,
    "time(2)": _times,
    "timetz": st.builds("{}{}".format, _times, _offsets),
    "timestamp": _timestamps,
    "timestamp(0)": st.datetimes().map(str),
    "timestamptz": _timestamptz,
    "interval": _intervals,
    "interval year to month": st.integers(-(10**5), 10**5).map("{} mons".format),
    "uuid": st.uuids().map(str),
    "json": _json,
    "jsonb": _jsonb,
    "jsonpath": st.sampled_from(["$", "$.a[*] ? (@ > 1)", 'strict $."é\\"x"', "$.**"]),
    "inet": _inet,
    "cidr": _cidrs,
    "macaddr": st.binary(min_size=6, max_size=6).map(bytes.hex),
    "macaddr8": st.binary(min_size=8, max_size=8).map(bytes.hex),
    "bit(5)": st.text("01", min_size=5, max_size=5),
    "varbit": st.text("01", max_size=70),
    "point": _points,
    "line": st.sampled_from(["{1,-1,0}", "{0,1,-2.5}", "{1e300,5e-324,-0}"]),
    "lseg": st.builds("[{},{}]".format, _points, _points),
    "box": st.builds("{},{}".format, _points, _points),
    "path": _paths.map("[{}]".format) | _paths.map("({})".format),
    "polygon": _paths.map("({})".format),
    "circle": st.builds("<{},{}>".format, _points, st.floats(0, 1e9).map(repr)),
    "tsvector": st.lists(_lexemes, max_size=4).map(" ".join),
    "tsquery": _queries,
    "oid": st.integers(0, 2**32 - 1).map(str),
    "oidvector": st.lists(st.integers(0, 2**32 - 1).map(str), max_size=4).map(" ".join),
    "int2vector": st.lists(_integers(16), max_size=4).map(" ".join),
    "regclass": st.sampled_from(
        ["pg_class", "pg_toast.pg_toast_1255", "-", "4000000000"]
    ),
    "regtype": st.sampled_from(["text[]", "double precision", '"char"', "4000000000"]),
    "regproc": st.sampled_from(["now", "-", "4000000000"]),
    "regprocedure": st.sampled_from(["sum(integer)", "now()", "-"]),
    "regoper": st.sampled_from(["||/", "pg_catalog.||/", "0"]),
    "regoperator": st.sampled_from(["+(integer,integer)", "0"]),
    "regnamespace": st.sampled_from(["public", "pg_catalog", "-"]),
    "regrole": st.sampled_from(["pg_monitor", "-"]),
    "regcollation": st.sampled_from(['"C"', "pg_catalog.default", "-"]),
    "regconfig": st.sampled_from(["english", "simple", "-"]),
    "regdictionary": st.sampled_from(["simple", "-"]),
    "aclitem": st.sampled_from(["=r/pg_monitor", "pg_monitor=r*w/pg_monitor"]),
    "xid": st.integers(0, 2**32 - 1).map(str),
    "xid8": _u64.map(str),
    "cid": st.integers(0, 2**32 - 1).map(str),
    "tid": st.builds(
        "({},{})".format, st.integers(0, 2**32 - 1), st.integers(0, 65535)
    ),
    "pg_lsn": _u64.map(lambda at: f"{at >> 32:X}/{at & 0xFFFFFFFF:X}"),
    "txid_snapshot": st.sampled_from(["1:1:", "10:20:10,14,15"]),
    "refcursor": TEXT,
    **_RANGES,
    **{
        name.replace("range", "multirange"): _multiranges(ranges)
        for name, ranges in _RANGES.items()
    },
}
"""Literals by column type."""
