"""
Rows and messages as JSON and back.

What is restored is the message itself, so that all of an event's values, which are made
from it, come out as before.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import psycopg
from django.apps import apps
from django.db import connections

from .catalogue import FIRST_USER_OID, ColumnType, known_type
from .pgoutput.lsn import Lsn
from .pgoutput.messages import (
    UNCHANGED,
    Begin,
    Column,
    Delete,
    Insert,
    PartialRow,
    Relation,
    Row,
    RowMessage,
    Truncate,
    Update,
    Value,
)
from .pgoutput.values import JSON, JSONB, ExactText
from .tables import Table, orm_adapters

_EXACT_TEXT = "walex_django.ExactText"
_JSON = {JSON, JSONB}
_NATIVE = {bool, int, str}


def dump_row(table: Table, row: Row | None) -> dict[str, Any] | None:
    """Return what JSON can hold of a row, by column; `UNCHANGED` is left out."""
    if row is None:
        return None
    return {
        name: _dump(value, text, type.record_oid)
        for name, type, value, text in zip(
            table.column_names, table.types, table.load(row), row, strict=True
        )
        if value is not UNCHANGED
    }


def dump_types(table: Table) -> dict[str, list[str]]:
    """Return how columns are read whose types are no built-in ones, by column."""
    return {
        name: [type.base, _record_type(type)]
        for name, type in zip(table.column_names, table.types, strict=True)
        if not type.name == type.base == _record_type(type)
    }


def _record_type(type: ColumnType) -> str:
    known = known_type(type.record_oid)
    return known.name if known else type.base


def restore(data: Mapping[str, Any]) -> tuple[Table, Begin, RowMessage | Truncate]:
    """Return the parts of the event that ``data`` was made of by `Event.as_dict`."""
    _validate(data)
    source = data["source"]
    table = _table(
        source["db"],
        source["schema"],
        source["table"],
        data["model"],
        tuple(
            (column, name, *data["types"].get(column, (name, name)))
            for column, name in source["columns"].items()
        ),
        frozenset(data["old_record"] or ()),
        source["version"],
    )
    begin = Begin(
        Lsn.parse(data["lsn"]), datetime.fromisoformat(data["timestamp"]), data["xid"]
    )
    new = _load_row(table, data["new_record"])
    old = _load_row(table, data["old_record"])
    match data["type"]:
        case "insert":
            message: RowMessage | Truncate = Insert(0, new or [])
        case "update" if data["changes"] is None:
            message = Update(0, old, None, new or [])
        case "update":
            message = Update(0, None, old, new or [])
        case "delete":
            message = Delete(0, old, None)
        case _:
            message = Truncate((0,), data["cascade"], data["restart_identity"])
    return table, begin, message


def _validate(data: Mapping[str, Any]) -> None:
    """Raise what `Event.from_dict` turns into its own where nothing else would."""
    if not (isinstance(data["ordinal"], int) and isinstance(data["xid"], int)):
        raise TypeError("ordinal and xid must be integers")
    if datetime.fromisoformat(data["timestamp"]).tzinfo is None:
        raise TypeError("timestamp must have a zone")
    needs = {"insert": "new_record", "update": "new_record", "delete": "old_record"}
    for name in ("new_record", "old_record"):
        absent = data[name] is None and needs.get(data["type"]) != name
        if not (absent or isinstance(data[name], Mapping)):
            raise TypeError(f"{name} must be a dict")
    if data["source"]["db"] not in connections:
        raise LookupError(f"no database {data['source']['db']!r}")


@lru_cache(maxsize=256)
def _table(
    alias: str,
    schema: str,
    name: str,
    model: str | None,
    types: tuple[tuple[str, str, str, str], ...],
    key: frozenset[str],
    version: str,
) -> Table:
    columns = tuple(Column(column, 0, -1, column in key) for column, *_ in types)
    return Table(
        Relation(0, schema, name, "d", columns),
        model=apps.get_model(model) if model else None,
        alias=alias,
        types=[
            ColumnType(name, _oid(base, alias), base, _oid(record, alias))
            for _, name, base, record in types
        ],
        version=version,
    )


def _oid(type: str, alias: str) -> int:
    try:
        return psycopg.adapters.types.get_oid(type)
    except KeyError:
        # A type of an extension has its loader on the ORM's connections, if anywhere.
        registered = orm_adapters(alias).types.get(type)
        return registered.oid if registered else 0


def _dump(value: Any, text: Value, oid: int) -> Any:
    if value is None:
        return None
    assert isinstance(text, bytes)
    exact = text.decode(errors="surrogateescape")
    if oid in _JSON:
        # In a column of JSON a string is a value.
        return value if _is_exact_json(value, exact) else {_EXACT_TEXT: exact}
    if isinstance(value, str) or not (_is_native(value) and _is_plain(exact, oid)):
        return exact
    return value


def _is_plain(text: str, oid: int) -> bool:
    """Return whether a text is known to be that of its value as `_text` has it."""
    info = psycopg.adapters.types.get(oid)
    if info is None or oid >= FIRST_USER_OID:
        return False
    is_array = oid == info.array_oid
    # Arrays with bounds of their own, of boxes, and of JSON, are more than their items.
    return not is_array or (
        text.startswith("{") and info.delimiter == "," and info.oid not in _JSON
    )


def _is_exact_json(value: Any, text: str) -> bool:
    """Return whether the value, written as JSON, says what the text says."""
    if isinstance(value, ExactText) or _is_wrapped(value):
        return False
    exact = True

    def parse(number: str) -> float:
        nonlocal exact
        exact = exact and Decimal(repr(float(number))) == Decimal(number)
        return 0.0

    json.loads(text, parse_float=parse)
    return exact


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_EXACT_TEXT}


def _is_native(value: Any) -> bool:
    """Return whether JSON has the value, and not only something that looks like it."""
    if isinstance(value, list):
        return all(item is None or _is_native(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) in _NATIVE


def _load_row(table: Table, record: Mapping[str, Any] | None) -> Row | None:
    if record is None:
        return None
    return PartialRow(
        _load(record[name], type.record_oid) if name in record else UNCHANGED
        for name, type in zip(table.column_names, table.types, strict=True)
    )


def _load(value: Any, oid: int) -> bytes | None:
    if value is None:
        return None
    if oid in _JSON:
        text = value[_EXACT_TEXT] if _is_wrapped(value) else json.dumps(value)
    else:
        text = _text(value)
    return text.encode(errors="surrogateescape")


def _text(value: Any) -> str:
    """Return a value as PostgreSQL writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"{{{','.join(map(_element, value))}}}"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"no value of a column: {value!r}")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    text = _text(value)
    if isinstance(value, str) and (
        _QUOTED.search(text) or text.upper() in ("", "NULL")
    ):
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    return text


_MEANT = {"", "NULL"}
_QUOTED = re.compile(r'[{},"\\ \t\n\r\v\f]')
