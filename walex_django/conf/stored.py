"""
Runtime changes of settings that apply to all listeners of a stream.

The changes are stored in a table. A logical message in the stream itself makes the
listener load them: this needs no further connection, works through poolers, and gives
each change a position in the WAL.

Source: WalEx, ``WalEx.Config``, whose changes affect only their own process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error as DatabaseError
from django.db import connections, router

from walex_django.models import StreamSetting

from . import configs
from .own_tables import own_transaction
from .receivers_database import is_unmigrated
from .stream import StreamConfig

PREFIX = "walex_django.config"
"""Prefix of the logical message that makes a listener load the stored settings."""

Verb: TypeAlias = Literal["add", "remove", "replace"]
VERBS: tuple[str, ...] = get_args(Verb)


def load(stream: str) -> None:
    """
    Apply the stored settings of a stream.

    Args:
        stream: The stream's key in ``WALEX``.

    Raises:
        django.db.Error: If the database can't be read.
        ImproperlyConfigured: If a stored setting no longer fits ``WALEX``.
    """
    with own_transaction(router.db_for_write(StreamSetting)):
        changed = kept(stream)
    apply(stream, changed)


def apply(stream: str, changed: Mapping[str, Any]) -> None:
    """
    Apply settings of a stream that were read before.

    Args:
        stream: The stream's key in ``WALEX``.
        changed: The settings by key, as returned by `kept`.

    Raises:
        ImproperlyConfigured: If a setting no longer fits ``WALEX``.
    """
    try:
        configs.override(stream, changed)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(
            f"{error} A setting stored by walex_config is no longer valid."
            f" Run: {_reset_command(stream, changed, str(error))}"
        ) from error


def _reset_command(stream: str, changed: Mapping[str, Any], problem: str) -> str:
    invalid = next(
        (
            key
            for key in changed
            if repr(key) in problem or problem.startswith(f"{key} ")
        ),
        "KEY",
    )
    return f"python manage.py walex_config {stream} reset {invalid}"


def kept(stream: str) -> dict[str, Any]:
    """Return the stored settings of a stream by key."""
    # A replica might not have the change yet that the logical message announced.
    using = router.db_for_write(StreamSetting)
    rows = StreamSetting.objects.using(using).filter(stream=stream)
    return dict(rows.values_list("key", "value"))


def refreshed(config: StreamConfig) -> StreamConfig:
    """
    Load a stream's stored settings and return its current configuration.

    Args:
        config: The stream's configuration.

    Raises:
        django.db.Error: If the database can't be read.
        ImproperlyConfigured: If a stored setting no longer fits ``WALEX``.
    """
    try:
        load(config.name)
    except DatabaseError as error:
        if not is_unmigrated(error):
            raise
    return configs.follow(config)


def change(config: StreamConfig, verb: Verb, key: str, value: Any) -> Any:
    """
    Change a setting of a stream for all of its current and future listeners.

    Args:
        config: The stream's configuration.
        verb: The function to use: `conf.add_config`, `conf.remove_config` or
            `conf.replace_config`.
        key: The setting's key in ``WALEX``.
        value: The value, as this function takes it.

    Returns:
        The setting's new value.

    Raises:
        ImproperlyConfigured: If the function raises it, or the new value can't be
            stored.
        django.db.Error: If the database can't be written.
    """
    verbs = {
        "add": configs.add_config,
        "remove": configs.remove_config,
        "replace": configs.replace_config,
    }
    stream = config.name
    load(stream)
    using = router.db_for_write(StreamSetting)
    with own_transaction(using):
        # A concurrent change of the same setting waits here, and then builds on ours.
        row, _ = (
            StreamSetting.objects.using(using)
            .select_for_update()
            .get_or_create(
                stream=stream, key=key, defaults={"value": _json_value(config, key)}
            )
        )
        apply(stream, kept(stream))
        verbs[verb](stream, key, value)
        row.value = _json_value(config, key)
        row.save(using=using)
    # After the transaction: a COMMIT can be read from the WAL before its rows are
    # visible to other sessions.
    announce(config)
    return row.value


def _json_value(config: StreamConfig, key: str) -> Any:
    """Return the current value of a setting, converted to JSON types."""
    written = configs.written(config.name)
    value = written.get(key, getattr(config, configs.attribute(key)))
    try:
        return json.loads(json.dumps(value, cls=DjangoJSONEncoder))
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{key} can't be stored: {error}. Write functions as dotted paths."
        ) from error


def forget(config: StreamConfig, key: str) -> bool:
    """
    Delete a stored setting, so that ``WALEX`` applies again.

    Args:
        config: The stream's configuration.
        key: The setting's key in ``WALEX``.

    Returns:
        Whether the setting was stored.
    """
    using = router.db_for_write(StreamSetting)
    with own_transaction(using):
        rows = StreamSetting.objects.using(using).filter(stream=config.name, key=key)
        found, _ = rows.delete()
    if found:
        announce(config)
    load(config.name)
    return bool(found)


def announce(config: StreamConfig) -> None:
    """Write the logical message that makes a stream's listener load its settings."""
    with (
        own_transaction(config.database),
        connections[config.database].cursor() as cursor,
    ):
        cursor.execute(
            "SELECT pg_logical_emit_message(true, %s, %s)",
            [PREFIX, json.dumps({"stream": config.name})],
        )
