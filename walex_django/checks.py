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
from .diagnosis.pools import small_pools
from .diagnosis.problems import LEFT_BEHIND, diagnose
from .diagnosis.published_tables import NO_TABLE
from .handlers import registry
from .signals import ALL


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check the structure of ``WALEX``, without connecting to a server."""
    configs, problems = reader.read(getattr(settings, "WALEX", None))
    found = list(problems)
    for config in configs.values():
        found += unknown_names(config)
    if not problems:
        found += _unknown_streams(configs)
        found += small_pools(configs.values())
    return [_message(problem) for problem in found]


def check_databases(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Collection[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """
    Check the servers of the streams.

    None of the results is an error: ``migrate`` runs these checks too, and an error
    would stop it.

    Args:
        app_configs: Ignored.
        databases: The aliases of the databases whose streams are checked.
    """
    configs, _ = reader.read(getattr(settings, "WALEX", None))
    found: dict[object, tuple[Problem, str]] = {}
    for config in configs.values():
        if config.database in (databases or ()):
            for problem in _database_problems(config):
                # Report a problem of the server once, not for each of its streams.
                same = _identity(problem, config)
                found.setdefault(same, (problem, f"WALEX[{config.name!r}]"))
    return [_message(problem, stream) for problem, stream in found.values()]


def _identity(problem: Problem, config: StreamConfig) -> object:
    """Return what the same problem has in common in two streams."""
    if problem.id == LEFT_BEHIND:
        # The message contains a size, which grows from one query to the next.
        return problem.id, problem.hint, config.database
    return problem


def _database_problems(config: StreamConfig) -> list[Problem]:
    # The commands report these errors.
    with suppress(ImproperlyConfigured, DatabaseError):
        config = stored.refreshed(config)
    found = diagnose(config)
    ids = {problem.id for problem in found}
    # A test run creates such a database, perhaps on the same server as the real one,
    # whose slot then has the expected name.
    unprepared = "W030" in ids and (
        not config.durable_slot or not ids.isdisjoint({"W040", "W041"})
    )
    if unprepared and hasattr(mail, "outbox"):
        return []
    if NO_TABLE in ids and _has_unapplied_migrations(config.database):
        return [problem for problem in found if problem.id != NO_TABLE]
    return found


def _has_unapplied_migrations(alias: str) -> bool:
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


def _unknown_streams(configs: Mapping[str, StreamConfig]) -> list[Problem]:
    """Return the handlers and receivers of streams that ``WALEX`` does not define."""
    named = [
        (f"{handler.where}: the handler", handler.stream)
        for handler in [*registry.handlers.values()]
        if handler.stream is not None
    ]
    named += [
        (f"A receiver of {signal.name}", stream)
        for signal in ALL
        for stream in signal.streams()
    ]
    hint = f"Streams in WALEX: {', '.join(configs)}."
    return [
        Problem(
            "E010",
            f"{receiver} names the stream {stream!r}, which is not in WALEX.",
            hint,
        )
        for receiver, stream in named
        if stream not in configs
    ]
