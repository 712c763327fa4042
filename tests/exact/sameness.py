"""Comparisons that are stricter than equality."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

from django.db.models import Model
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from walex_django import Event


def same(one: Any, other: Any) -> bool:
    """
    Return whether values are equal and of the same type, including nested values.

    NaN is the same as NaN; -0.0 and 0.0, and decimals of different scale, are not.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple | Multirange):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Range):
        return (
            one.bounds == other.bounds
            and same(one.lower, other.lower)
            and same(one.upper, other.upper)
        )
    if isinstance(one, float) or hasattr(one, "compare_total"):
        return repr(one) == repr(other)
    if hasattr(one, "utcoffset"):
        return bool(one == other) and one.utcoffset() == other.utcoffset()
    return bool(one == other)


def loaded(instance: Model | None) -> dict[str, Any] | None:
    """Return the loaded values of an instance by attribute."""
    if instance is None:
        return None
    names = {field.attname for field in instance._meta.concrete_fields}
    return {name: value for name, value in vars(instance).items() if name in names}


def assert_same(one: Any, other: Any) -> None:
    """Assert that values are the same; the message names the items that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert list(one) == list(other)
        for name, value in one.items():
            assert same(value, other[name]), (name, value, other[name])
    else:
        assert same(one, other), (one, other)


def assert_survives(event: Event) -> None:
    """Assert that an event keeps its values through JSON and pickle."""
    text = json.dumps(event.as_dict(), allow_nan=False)
    for again in (
        Event.from_dict(json.loads(text)),
        pickle.loads(pickle.dumps(event)),  # noqa: S301 - pickled here
    ):
        assert again == event
        assert again.source == event.source
        for name in ("new_record", "old_record", "changes", "unchanged"):
            assert_same(getattr(again, name), getattr(event, name))
        for name in ("instance", "old_instance"):
            assert_same(loaded(getattr(again, name)), loaded(getattr(event, name)))
