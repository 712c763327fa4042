"""`matches` and `select` choose events by table and type."""

from __future__ import annotations

import json
from typing import Any

import pytest

from walex_django import Event, EventType
from walex_django.filters import matches, select


def event(schema: str, table: str, type: str) -> Event:
    """Return an event as read from a queue."""
    data: dict[str, Any] = {
        "id": "0/10:1",
        "type": type,
        "name": table,
        "model": None,
        "source": {
            "name": "walex_django",
            "version": "0",
            "db": "default",
            "schema": schema,
            "table": table,
            "columns": {"id": "integer"},
        },
        "types": {},
        "new_record": None if type in {"delete", "truncate"} else {"id": 1},
        "old_record": {"id": 1} if type == "delete" else None,
        "exact": {"new_record": {}, "old_record": {}},
        "changes": None,
        "unchanged": [],
        "timestamp": "2026-01-01T00:00:00+00:00",
        "lsn": "0/10",
        "xid": 1,
        "ordinal": 1,
        "cascade": False,
        "restart_identity": False,
        "context": None,
    }
    return Event.from_dict(json.loads(json.dumps(data)))


ORDER = event("public", "shop_order", "insert")


@pytest.mark.parametrize(
    ("relation", "type", "expected"),
    [
        ("*", "*", True),
        ("", "*", True),
        ("*:*", "*", True),
        ("public", "*", True),
        ("public:*", "*", True),
        ("public:", "*", True),
        ("public:shop_order", "*", True),
        ("*:shop_order", "*", True),
        (":shop_order", "*", True),
        ("public:shop_order", "insert", True),
        ("*", "insert", True),
        ("*", EventType.INSERT, True),
        ("public:shop_order", "update", False),
        ("*", EventType.DELETE, False),
        ("public:shop", "*", False),
        ("public:shop_orders", "insert", False),
        ("crm", "*", False),
        ("crm:shop_order", "*", False),
        ("shop_order", "*", False),
        ("Public:shop_order", "*", False),
    ],
)
def test_matches(relation: str, type: str, expected: bool) -> None:
    assert matches(ORDER, relation, type) is expected


def test_invalid_relation_or_type_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'schema:table', not 'a:b:c'"):
        matches(ORDER, "a:b:c")
    with pytest.raises(ValueError, match=r"one of \*, delete, .*, not 'INSERT'"):
        matches(ORDER, "*", "INSERT")


def test_select_preserves_the_order() -> None:
    update = event("public", "shop_order", "update")
    item = event("public", "shop_item", "insert")
    foreign = event("crm", "shop_order", "insert")
    truncate = event("public", "shop_order", "truncate")
    events = [ORDER, item, update, foreign, truncate]

    assert select(events) == events
    assert select(iter(events), "public:shop_order") == [ORDER, update, truncate]
    assert select(events, type="insert") == [ORDER, item, foreign]
    assert select(events, "public", "insert") == [ORDER, item]
    assert select(events, "*:shop_order", "update") == [update]
    assert select(events, "legacy") == []
    assert select([], "*") == []
