"""Filters in the settings and on handlers."""

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

from .handling import Recorder, label, wait_until_done

Sql = psycopg.Connection[Any]


class Filtering:
    """
    Finds out which events pass a filter.

    Args:
        config: The stream's configuration.
        place: Where the filter is: ``"settings"`` or ``"handler"``.
    """

    def __init__(self, config: StreamConfig, place: str) -> None:
        self._config, self._place = config, place

    def passed(self, table: str, do: Callable[[], object], **options: Any) -> list[str]:
        """
        Return the labels of the events that pass the filter.

        Args:
            table: The table that the filter is for.
            do: A function that makes the changes.
            options: The filter's options.
        """
        recorder = Recorder()
        config = self._config
        if self._place == "settings":
            config = replace(config, filters={table: read_filter(options)})
            options = {}
        on_event(table, **options)(recorder)
        with Listening(config) as listening:
            do()
            wait_until_done(listening)
        passed: list[Event] = list(chain(*recorder.lists))
        return [label(event) for event in passed if label(event) != "insert done"]


@contextmanager
def identity(sql: Sql, table: str, of: str) -> Iterator[None]:
    """Change the replica identity of a table for the block."""
    sql.execute(f"ALTER TABLE {table} REPLICA IDENTITY {of}".encode())
    try:
        yield
    finally:
        sql.execute(f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT".encode())
