"""The sizes of Django's connection pools, compared with what listeners hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from walex_django.conf.reader import Problem
from walex_django.conf.receivers_database import database
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.pool import THREADS
from walex_django.handlers import registry
from walex_django.handlers.functions import Function
from walex_django.handlers.registry import Handler

_MIN_SIZE = 4  # psycopg_pool's default


def small_pools(configs: Iterable[StreamConfig]) -> Iterator[Problem]:
    """
    Return a problem for each pool with fewer connections than a listener may hold.

    The listener is one that runs all streams in one process. The connections that
    receivers open to further databases are not known.

    Args:
        configs: The configurations of all streams.
    """
    needed: Counter[str] = Counter()
    for config in configs:
        for alias in {config.database, database()}:
            # Each thread has a connection of its own to each database that it uses.
            needed[alias] += 1 + (THREADS if _has_functions(config) else 0)
    for alias in needed:
        number = needed[alias] + 1  # the thread that writes the reports
        size = _pool_size(alias)
        if size is not None and size < number:
            yield Problem(
                "W056",
                f"The connection pool of the database {alias!r} has at most {size}"
                f" connections, and a listener of all streams may hold {number}: one"
                f" per stream, {THREADS} more per stream with functions, and one for"
                " its reports.",
                f"In DATABASES[{alias!r}], set OPTIONS['pool'] to"
                f" {{'max_size': {number}}} or more, or run each stream in a process of"
                " its own: python manage.py walex_listen --stream NAME",
            )


def _has_functions(config: StreamConfig) -> bool:
    return any(
        not function.is_task
        for handler in list(registry.handlers.values())
        if handler.stream in {None, config.name}
        for function in _functions(handler)
    )


def _functions(handler: Handler) -> Sequence[Function]:
    if not handler.is_prepared:
        with suppress(ImproperlyConfigured):  # other checks and the listener report it
            handler.prepare()
    return handler.functions


def _pool_size(alias: str) -> int | None:
    """Return the maximum size of a database's pool, or `None` if it has none."""
    options = connections[alias].settings_dict.get("OPTIONS", {}).get("pool")
    if not options:
        return None
    if not isinstance(options, dict):
        return _MIN_SIZE
    size = options.get("max_size")
    if size is None:
        size = options.get("min_size", _MIN_SIZE)
    return size if isinstance(size, int) else None
