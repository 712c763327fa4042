"""System checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks, mail
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from .conf import reader, stored
from .conf.names import unknown_names
from .conf.reader import Problem
from .conf.stream import StreamConfig
from .diagnosis.problems import LEFT_BEHIND, diagnose
from .diagnosis.published_tables import NO_TABLE
from .handlers import registry
from .signals import ALL


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check the shape of ``WALEX``; asks no server."""
    configs, problems = reader.read(getattr(settings, "WALEX", None))
    found = list(problems)
    for config in configs.values():
        found += unknown_names(config)
    if not problems:
        found += _stream_problems(configs)
    return [_message(problem) for problem in found]


def check_databases(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Collection[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """
    Check what the streams find on their servers.

    There are no errors among it: ``migrate`` runs these checks too, and would stop.

    Args:
        app_configs: of no account.
        databases: aliases; the streams on others are not looked at.
    """
    configs, _ = reader.read(getattr(settings, "WALEX", None))
    found: dict[object, tuple[Problem, str]] = {}
    for written in configs.values():
        if written.database in (databases or ()):
            for problem in _database_problems(written):
                # One of the server is that of all its streams.
                same = _identity(problem, written)
                found.setdefault(same, (problem, f"WALEX[{written.name!r}]"))
    return [_message(problem, stream) for problem, stream in found.values()]


def _identity(problem: Problem, written: StreamConfig) -> object:
    """Return what two streams' problems have in common if they are the same one."""
    if problem.id == LEFT_BEHIND:
        # The message contains a size, which grows from one query to the next.
        return problem.id, problem.hint, written.database
    return problem


def _database_problems(written: StreamConfig) -> list[Problem]:
    config = written
    with suppress(ImproperlyConfigured, DatabaseError):  # the commands tell
        config = stored.refreshed(written)
    found = diagnose(config)
    ids = {problem.id for problem in found}
    # Each run of the tests makes such a database, perhaps beside the one with the slot.
    unprepared = "W030" in ids and (
        not config.durable_slot or not ids.isdisjoint({"W040", "W041"})
    )
    if unprepared and hasattr(mail, "outbox"):
        return []
    if NO_TABLE in ids and _awaits_migrations(config.database):
        return [problem for problem in found if problem.id != NO_TABLE]
    return found


def _awaits_migrations(alias: str) -> bool:
    executor = MigrationExecutor(connections[alias])
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _message(problem: Problem, stream: str | None = None) -> CheckMessage:
    kind = _KINDS[problem.id[0]]
    return kind(
        problem.message,
        hint=problem.hint or None,
        obj=stream,
        id=f"walex_django.{problem.id}",
    )


_KINDS = {"E": checks.Error, "W": checks.Warning, "I": checks.Info}


def _stream_problems(configs: Mapping[str, StreamConfig]) -> list[Problem]:
    """Return who hears of a stream that there is not, and so of nothing."""
    waiting = [
        (f"{handler.where}: the handler", handler.stream)
        for handler in [*registry.handlers.values()]
        if handler.stream is not None
    ]
    waiting += [
        (f"A receiver of {signal.name}", stream)
        for signal in ALL
        for stream in signal.streams()
    ]
    hint = f"There are: {', '.join(configs)}."
    return [
        Problem("E010", f"{who} names the stream {stream!r}, which WALEX lacks.", hint)
        for who, stream in waiting
        if stream not in configs
    ]
