"""
Rows and messages as JSON and back.

What is restored is the message itself, so that all of an event's values, which are made
from it, come out as before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import psycopg
from django.apps import apps
from django.db import connections
from psycopg.adapt import PyFormat, Transformer

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
from .pgoutput.values import ExactText
from .tables import Table, orm_adapters

_JSON_TYPES = {"json", "jsonb"}
_EXACT_TEXT = "walex_django.ExactText"


def dump_row(table: Table, row: Row | None) -> dict[str, Any] | None:
    """Return what JSON can hold of a row, by column; `UNCHANGED` is left out."""
    if row is None:
        return None
    return {
        name: _dump(value, text, type in _JSON_TYPES)
        for (name, type), value, text in zip(
            table.source.columns.items(), table.load(row), row, strict=True
        )
        if value is not UNCHANGED
    }


def restore(data: Mapping[str, Any]) -> tuple[Table, Begin, RowMessage | Truncate]:
    """Return the parts of the event that ``data`` was made of by `Event.as_dict`."""
    _validate(data)
    source = data["source"]
    table = _table(
        source["db"],
        source["schema"],
        source["table"],
        data["model"],
        tuple(source["columns"].items()),
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
    types: tuple[tuple[str, str], ...],
    key: frozenset[str],
    version: str,
) -> Table:
    columns = tuple(
        Column(column, _oid(type, alias), -1, column in key) for column, type in types
    )
    return Table(
        Relation(0, schema, name, "d", columns),
        model=apps.get_model(model) if model else None,
        alias=alias,
        type_names=[type for _, type in types],
        version=version,
    )


def _oid(type: str, alias: str) -> int:
    try:
        return psycopg.adapters.types.get_oid(type)
    except KeyError:
        # A type of an extension has its loader on the ORM's connections, if anywhere.
        registered = orm_adapters(alias).types.get(type)
        return registered.oid if registered else 0


def _dump(value: Any, text: Value, is_json: bool) -> Any:
    if is_json and isinstance(value, ExactText):
        # In a column of JSON a string is a value.
        return {_EXACT_TEXT: value}
    if value is None or is_json or _is_native(value):
        return value
    assert isinstance(text, bytes)
    return text.decode(errors="surrogateescape")


def _is_native(value: Any) -> bool:
    """Return whether JSON has the value, and not only something that looks like it."""
    if isinstance(value, list):
        return all(item is None or _is_native(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) in {bool, int, str}


def _load_row(table: Table, record: Mapping[str, Any] | None) -> Row | None:
    if record is None:
        return None
    return PartialRow(
        _load(record[name], type in _JSON_TYPES) if name in record else UNCHANGED
        for name, type in table.source.columns.items()
    )


def _load(value: Any, is_json: bool) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {_EXACT_TEXT}:
        value = value[_EXACT_TEXT]
    elif is_json:
        return json.dumps(value).encode()
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    dumped = Transformer().get_dumper(value, PyFormat.TEXT).dump(value)
    return None if dumped is None else bytes(dumped)
