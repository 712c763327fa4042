"""Filters in the settings, and of handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import psycopg

from tests.listening import Listening
from walex_django import Event, on_event
from walex_django.conf.parsers import read_filter
from walex_django.conf.stream import StreamConfig

from .handling import Heard, label, wait_until_done

Sql = psycopg.Connection[Any]


class Filtering:
    """
    Tells which events pass a filter.

    Args:
        config: of the stream.
        place: ``"settings"`` or ``"handler"``, where the filter is.
    """

    def __init__(self, config: StreamConfig, place: str) -> None:
        self._config, self._place = config, place

    def passed(self, table: str, do: Callable[[], object], **options: Any) -> list[str]:
        """
        Return what was done to whom, as far as it was heard of.

        Args:
            table: that the filter is for.
            do: makes the changes.
            options: of the filter.
        """
        heard = Heard()
        config = self._config
        if self._place == "settings":
            config = replace(config, filters={table: read_filter(options)})
            options = {}
        on_event(table, **options)(heard)
        with Listening(config) as listening:
            do()
            wait_until_done(listening)
        passed: list[Event] = list(chain(*heard.lists))
        return [label(event) for event in passed if label(event) != "insert done"]


@contextmanager
def identity(sql: Sql, table: str, of: str) -> Iterator[None]:
    """Let a table have another REPLICA IDENTITY."""
    sql.execute(f"ALTER TABLE {table} REPLICA IDENTITY {of}".encode())
    try:
        yield
    finally:
        sql.execute(f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT".encode())
