"""
Convert rows and messages to JSON and back.

The message itself is restored. All values of an event derive from it, so they are the
same as before.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import psycopg
from django.apps import apps
from django.db import connections

from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import (
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
)
from walex_django.pgoutput.values import JSON, JSONB

from .column_types import ColumnType, known_type
from .instances import orm_adapters
from .table import Table

_JSON = {JSON, JSONB}
_NATIVE = {bool, int, str}


def dump_row(
    table: Table, row: Row | None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """
    Return the JSON-serializable values of a row and the texts that they don't preserve.

    Both are dicts by column. `UNCHANGED` values are omitted. The second has the text of
    each column whose text can't be restored from the value in the first.
    """
    if row is None:
        return None, {}
    record: dict[str, Any] = {}
    exact: dict[str, str] = {}
    for name, type, value, raw in zip(
        table.column_names, table.types, table.load(row), row, strict=True
    ):
        if value is UNCHANGED:
            continue
        record[name] = None
        if raw is not None:
            assert isinstance(raw, bytes)
            text = raw.decode(errors="surrogateescape")
            is_json = type.record_oid in _JSON
            record[name] = _dump(value, text, is_json=is_json)
            if record[name] is None or text != _text(record[name], is_json=is_json):
                exact[name] = text
    return record, exact


def dump_types(table: Table) -> dict[str, list[str]]:
    """Return the base and record types of columns whose type isn't built in."""
    return {
        name: [type.base, _record_type(type)]
        for name, type in zip(table.column_names, table.types, strict=True)
        if not type.name == type.base == _record_type(type)
    }


def _record_type(type: ColumnType) -> str:
    known = known_type(type.record_oid)
    return known.name if known else type.base


def restore(data: Mapping[str, Any]) -> tuple[Table, Begin, RowMessage | Truncate]:
    """Return the parts of the event that `Event.as_dict` converted to ``data``."""
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
    new = _load_row(table, data["new_record"], data["exact"]["new_record"])
    old = _load_row(table, data["old_record"], data["exact"]["old_record"])
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
    """Raise the errors for `Event.from_dict` that `restore` wouldn't raise itself."""
    if not (isinstance(data["ordinal"], int) and isinstance(data["xid"], int)):
        raise TypeError("ordinal and xid must be integers")
    if datetime.fromisoformat(data["timestamp"]).tzinfo is None:
        raise TypeError("timestamp must have a time zone")
    required = {"insert": "new_record", "update": "new_record", "delete": "old_record"}
    for name in ("new_record", "old_record"):
        absent = data[name] is None and required.get(data["type"]) != name
        if not (absent or isinstance(data[name], Mapping)):
            raise TypeError(f"{name} must be a dict")
    if data["source"]["db"] not in connections:
        raise LookupError(f"unknown database alias {data['source']['db']!r}")


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
    with suppress(KeyError):
        return psycopg.adapters.types.get_oid(type)
    # If an extension's type has a loader, it is on the ORM's connections.
    with suppress(KeyError):
        return orm_adapters(alias).types.get_oid(type)
    return 0


def _dump(value: Any, text: str, *, is_json: bool) -> Any:
    if not is_json:
        return value if _is_native(value) else text
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return text
    return value


def _is_native(value: Any) -> bool:
    """Return whether JSON preserves the value, including its type."""
    if isinstance(value, list):
        return all(item is None or _is_native(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) in _NATIVE


def _load_row(
    table: Table, record: Mapping[str, Any] | None, exact: Mapping[str, str]
) -> Row | None:
    if record is None:
        return None
    return PartialRow(
        _load(exact.get(name), record[name], is_json=type.record_oid in _JSON)
        if name in record
        else UNCHANGED
        for name, type in zip(table.column_names, table.types, strict=True)
    )


def _load(exact: str | None, value: Any, *, is_json: bool) -> bytes | None:
    if exact is None and value is None:
        return None
    text = _text(value, is_json=is_json) if exact is None else exact
    return text.encode(errors="surrogateescape")


def _text(value: Any, *, is_json: bool = False) -> str:
    """Return the text that PostgreSQL usually writes for a value."""
    if is_json:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"{{{','.join(map(_element, value))}}}"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"not a valid column value: {value!r}")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    text = _text(value)
    if isinstance(value, str) and (_SPECIAL.search(text) or text.upper() in _AMBIGUOUS):
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    return text


_AMBIGUOUS = {"", "NULL"}  # have another meaning without quotes
_SPECIAL = re.compile(r'[{},"\\ \t\n\r\v\f]')
