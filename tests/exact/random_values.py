"""Random literals of PostgreSQL's types."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from uuid import UUID

Make = Callable[[Random], str]

_AWKWARD = [*"'\"\\{}()[],;:<>&|*!%$ \n\r\té🦓", "NULL", "null", "NaN", r"\N", "\\."]


def text(random: Random) -> str:
    """Return a short text of letters and of characters that often need escaping."""
    letters = random.choices([*_AWKWARD, *"abcxyzÄß"], k=random.randint(0, 9))
    return "".join(letters)


def wide(random: Random) -> str:
    """Return an incompressible text that is too long for its row."""
    return random.randbytes(random.randint(1500, 3500)).hex()


def or_wide(make: Make, random: Random) -> str:
    """Return a wide text half of the time."""
    return wide(random) if random.random() < 0.5 else make(random)


def array(make: Make, random: Random, delimiter: str = ",") -> str:
    """Return an array, possibly empty, two-dimensional or with a lower bound."""

    def item() -> str:
        if random.random() < 0.15:
            return "NULL"
        return '"' + make(random).replace("\\", "\\\\").replace('"', r"\"") + '"'

    def braced(items: list[str]) -> str:
        return "{" + delimiter.join(items) + "}"

    shape = random.random()
    if shape < 0.1:
        return braced([braced([item(), item()]) for _ in range(random.randint(1, 3))])
    if shape < 0.2:
        return "[-1:0]=" + braced([item(), item()])
    return braced([item() for _ in range(random.randint(0, 4))])


def composite(fields: list[Make], random: Random) -> str:
    """Return a row of a composite type."""
    items = [
        ""
        if random.random() < 0.15
        else '"' + make(random).replace("\\", "\\\\").replace('"', '""') + '"'
        for make in fields
    ]
    return "(" + ",".join(items) + ")"


def range_of(make: Make, order: Callable[[str], object], random: Random) -> str:
    """Return a range, possibly empty or unbounded."""
    if random.random() < 0.1:
        return "empty"
    bounds = sorted([make(random), make(random)], key=order)  # type: ignore[arg-type]
    low, high = ("" if random.random() < 0.15 else f'"{each}"' for each in bounds)
    return f"{random.choice('[(')}{low},{high}{random.choice('])')}"


def _int(bits: int, random: Random) -> str:
    edge = 2 ** (bits - 1)
    return str(random.choice([random.randrange(-edge, edge), -edge, edge - 1, 0, 7]))


def _float(format: str, random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(["NaN", "Infinity", "-Infinity", "-0", "1e-40", "0.1"])
    size = struct.calcsize(format)
    while True:
        (value,) = struct.unpack(format, random.randbytes(size))
        if math.isfinite(value):
            return repr(value)


def _numeric(random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(["NaN", "Infinity", "-Infinity", "0.00", "1.10", "1e60"])
    return str(
        Decimal(random.randrange(-(10**20), 10**20)).scaleb(random.randint(-12, 3))
    )


def _cents(random: Random) -> str:
    return str(Decimal(random.randrange(-(10**9), 10**9)).scaleb(-2))


def _day(random: Random) -> str:
    return str(date.min + timedelta(days=random.randrange(3_652_059)))


def _date(random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
    return _day(random)


def _time(random: Random) -> str:
    if random.random() < 0.1:
        return random.choice(["24:00:00", "00:00:00", "23:59:59.999999"])
    minute, microseconds = divmod(random.randrange(864 * 10**8), 60 * 10**6)
    return f"{minute // 60:02}:{minute % 60:02}:{microseconds / 10**6:09.6f}"


def _offset(random: Random) -> str:
    return random.choice(["+00", "+15:59:59", "-15:59:59", "+05:45", "-03:30", "+02"])


def _timestamp(random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(
            [
                *("infinity", "-infinity", "4000-01-01 00:00:00 BC"),
                *("0001-01-01 00:00:00", "294276-01-01 00:00:00.5"),
            ]
        )
    return f"{_day(random)} {_time(random).replace('24:00:00', '12:00:00')}"


def _timestamptz(random: Random) -> str:
    text = _timestamp(random)
    if text.endswith(("infinity", "BC")) or text.startswith("294276"):
        return text
    return text + _offset(random)


def _interval(random: Random) -> str:
    months, days = random.randrange(-2000, 2000), random.randrange(-9999, 9999)
    if random.random() < 0.2:
        return random.choice(
            ["178000000 years", "1 mon -1 day", "-00:00:01", "40 days"]
        )
    return f"{months} mons {days} days {random.randrange(-(10**12), 10**12)} us"


def _json_value(random: Random, depth: int = 0) -> object:
    kind = random.randrange(9 if depth < 3 else 6)
    if kind > 6:
        return [_json_value(random, depth + 1) for _ in range(random.randint(0, 3))]
    if kind > 5:
        return {text(random): _json_value(random, depth + 1) for _ in range(3)}
    return [None, True, text(random), random.randrange(10**30), random.random(), 1.5][
        kind
    ]


def _json(random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(["null", "1.10", '{"b": 1, "a" :\t1e400}', "1e2", '"1"'])
    return json.dumps(_json_value(random), ensure_ascii=random.random() < 0.5)


def _ipv4(random: Random) -> str:
    return str(IPv4Address(random.randrange(2**32)))


def _address(random: Random) -> str:
    return random.choice([_ipv4(random), str(IPv6Address(random.randrange(2**128)))])


def _inet(random: Random) -> str:
    return _address(random) + random.choice(["", "/8", "/32", "/0"])


def _cidr(random: Random) -> str:
    return str(ip_network((_address(random), random.randint(0, 32)), strict=False))


def _bits(low: int, high: int, random: Random) -> str:
    return "".join(random.choices("01", k=random.randint(low, high)))


def _points(low: int, high: int, random: Random) -> str:
    return ",".join(
        f"({random.uniform(-9, 9)!r},{random.randint(-9, 9)})"
        for _ in range(random.randint(low, high))
    )


def _lexeme(random: Random) -> str:
    word = (text(random) or "x").replace("\\", "\\\\").replace("'", "''")
    return f"'{word}'{random.choice(['', ':1', ':3A,5B'])}"


def _hstore(random: Random) -> str:
    def string() -> str:
        return '"' + text(random).replace("\\", "\\\\").replace('"', r"\"") + '"'

    return ", ".join(
        f"{string()}=>{random.choice([string(), 'NULL'])}"
        for _ in range(random.randint(0, 3))
    )


def _bytea(random: Random) -> str:
    return rf"\x{random.randbytes(random.randint(0, 12)).hex()}"


def _multirange(make: Make, random: Random) -> str:
    return "{" + ",".join(make(random) for _ in range(random.randint(0, 3))) + "}"


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128)))


def _instant(text: str) -> str:
    return text.rpartition("+")[0]


MOODS = ["sad", "so-so", 'it\'s "fine", I {guess}', "Größe", ""]
_positive: Make = lambda random: str(random.randint(1, 2**31 - 1))  # noqa: E731
_int4range = partial(range_of, partial(_int, 16), int)
_daterange = partial(range_of, _day, str)
_tstzrange = partial(range_of, lambda random: f"{_day(random)} 12:00:00+00", _instant)
_numrange = partial(range_of, _cents, Decimal)
_place = partial(composite, [text, _interval, partial(array, partial(_int, 32))])

USER_TYPES = f"""
CREATE SCHEMA "odd types";
SET LOCAL search_path = "odd types", public;
CREATE TYPE mood AS ENUM ({", ".join("'" + m.replace("'", "''") + "'" for m in MOODS)});
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN "Very Positive" AS positive;
CREATE DOMAIN moody AS mood;
CREATE DOMAIN moment AS timestamp with time zone;
CREATE DOMAIN integers AS integer[];
CREATE TYPE place AS ("the name" text, since interval, numbers integer[]);
CREATE TYPE span AS RANGE (SUBTYPE = double precision);
SET LOCAL search_path = DEFAULT;
"""
"""The SQL that creates the user-defined types."""

MAKE: Mapping[str, Make] = {
    "boolean": lambda random: random.choice("tf"),
    "smallint": partial(_int, 16),
    "integer": partial(_int, 32),
    "bigint": partial(_int, 64),
    "real": partial(_float, "f"),
    "double precision": partial(_float, "d"),
    "numeric": _numeric,
    "numeric(12,2)": _cents,
    "money": _cents,
    "oid": lambda random: str(random.getrandbits(32)),
    "text": text,
    "character varying(20)": lambda random: text(random)[:20],
    "character(12)": lambda random: text(random)[:12],
    '"char"': lambda random: random.choice("aZ\"'"),
    "name": text,
    "bytea": _bytea,
    "bit(5)": partial(_bits, 5, 5),
    "bit varying": partial(_bits, 0, 9),
    "uuid": _uuid,
    "date": _date,
    "time without time zone": _time,
    "time with time zone": lambda random: _time(random) + _offset(random),
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamptz,
    "timestamp(0) with time zone": _timestamptz,
    "interval": _interval,
    "json": _json,
    "jsonb": _json,
    "jsonpath": lambda random: f'$."a"[*] ? (@ > {random.randint(0, 99)})',
    "inet": _inet,
    "cidr": _cidr,
    "macaddr": lambda random: random.randbytes(6).hex(),
    "macaddr8": lambda random: random.randbytes(8).hex(),
    "point": partial(_points, 1, 1),
    "line": lambda random: f"{{1,{random.uniform(-9, 9)!r},2}}",
    "lseg": partial(_points, 2, 2),
    "box": partial(_points, 2, 2),
    "path": lambda random: random.choice(["({})", "[{}]"]).format(
        _points(1, 4, random)
    ),
    "polygon": lambda random: f"({_points(1, 4, random)})",
    "circle": lambda random: f"<{_points(1, 1, random)},{random.random()!r}>",
    "tsvector": lambda random: " ".join(_lexeme(random) for _ in range(3)),
    "tsquery": lambda random: random.choice(["'a' & !'b'", "'it''s':*A <-> 'c'"]),
    "pg_lsn": lambda random: f"{random.getrandbits(32):X}/{random.getrandbits(32):X}",
    "xid8": lambda random: str(random.getrandbits(64)),
    "regtype": lambda random: random.choice(["integer", '"odd types".mood', '"char"']),
    "int4range": _int4range,
    "numrange": _numrange,
    "daterange": _daterange,
    "tstzrange": _tstzrange,
    "tsrange": partial(range_of, lambda random: f"{_day(random)} 12:00:00", str),
    "int8multirange": partial(_multirange, _int4range),
    "datemultirange": partial(_multirange, _daterange),
    "integer[]": partial(array, partial(_int, 32)),
    "bigint[]": partial(array, partial(_int, 64)),
    "double precision[]": partial(array, partial(_float, "d")),
    "numeric[]": partial(array, _numeric),
    "boolean[]": partial(array, lambda random: random.choice("tf")),
    "text[]": partial(array, text),
    "character varying(20)[]": partial(array, lambda random: text(random)[:20]),
    "bytea[]": partial(array, _bytea),
    "uuid[]": partial(array, _uuid),
    "date[]": partial(array, _day),
    "timestamp with time zone[]": partial(array, _timestamptz),
    "interval[]": partial(array, _interval),
    "jsonb[]": partial(array, _json),
    "inet[]": partial(array, _inet),
    "int4range[]": partial(array, _int4range),
    "box[]": partial(array, partial(_points, 2, 2), delimiter=";"),
    "hstore": _hstore,
    "citext": text,
    "ltree": lambda random: ".".join(random.choices(["a", "B", "c_1"], k=3)),
    "citext[]": partial(array, text),
    "hstore[]": partial(array, _hstore),
    '"odd types".mood': lambda random: random.choice(MOODS),
    '"odd types".mood[]': partial(array, lambda random: random.choice(MOODS)),
    '"odd types".positive': _positive,
    '"odd types"."Very Positive"': _positive,
    '"odd types".positive[]': partial(array, _positive),
    '"odd types".moody': lambda random: random.choice(MOODS),
    '"odd types".moment': _timestamptz,
    '"odd types".moment[]': partial(array, _timestamptz),
    '"odd types".integers': partial(array, partial(_int, 32)),
    '"odd types".place': _place,
    '"odd types".place[]': partial(array, _place),
    '"odd types".span': partial(range_of, partial(_int, 32), int),
}
"""Functions that make a random value, by SQL type."""

WIDE: Mapping[str, Make] = {
    "text": partial(or_wide, text),
    "bytea": partial(or_wide, lambda random: random.randbytes(5).hex()),
    "jsonb": lambda random: json.dumps({"wide": or_wide(text, random)}),
    "text[]": lambda random: array(partial(or_wide, text), random),
    "citext": partial(or_wide, text),
}
"""Functions that make a value that is often TOASTed, by SQL type."""

_EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001

KEYS: Mapping[str, Callable[[int], str]] = {
    "bigint": str,
    "integer": str,
    "text": r"it's \ key {}".format,
    "uuid": lambda number: str(UUID(int=number * 0x9E3779B97F4A7C15 % 2**128)),
    "numeric(12,2)": lambda number: str(Decimal(number).scaleb(-2)),
    "timestamp with time zone": lambda number: (
        f"{_EPOCH + timedelta(seconds=number)}+00"
    ),
    "date": lambda number: str(_EPOCH.date() + timedelta(days=number)),
    "bytea": r"\x{:08x}".format,
    "double precision": lambda number: repr(number / 8),
    "citext": "Key {}".format,
    "int4range": lambda number: f"[{number},{number + 1})",
    '"odd types".positive': lambda number: str(number + 1),
    '"odd types"."Very Positive"': lambda number: str(number + 1),
}
"""Functions that make a unique key value from a number, by SQL type."""
