"""
What a stream is told to do while it runs, by whoever can reach its database.

It is kept in a table, and a logical message in the stream itself tells listeners to
look there: that needs no other connection, passes poolers, and takes effect at a place
in the log.

Source: WalEx, ``WalEx.Config``, whose changes are known to its own process only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error as DatabaseError
from django.db import connections, router, transaction

from walex_django.models import StreamSetting

from . import configs
from .receivers_database import is_unmigrated
from .stream import StreamConfig

PREFIX = "walex_django.config"
"""Of the logical message that tells a listener to look."""

Verb: TypeAlias = Literal["add", "remove", "replace"]
VERBS: tuple[str, ...] = get_args(Verb)


def load(stream: str) -> None:
    """
    Take over what is kept for a stream.

    Args:
        stream: its key in ``WALEX``.

    Raises:
        django.db.Error: the database did not tell.
        ImproperlyConfigured: what is kept fits the settings no longer.
    """
    changed = kept(stream)
    try:
        configs.override(stream, changed)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(
            f"{error} What walex_config has changed fits no longer."
            f" Run: {_reset(stream, changed, str(error))}"
        ) from error


def _reset(stream: str, changed: Mapping[str, Any], problem: str) -> str:
    """Return the command that undoes what is wrong."""
    wrong = next((key for key in changed if repr(key) in problem), "KEY")
    return f"python manage.py walex_config {stream} reset {wrong}"


def kept(stream: str) -> dict[str, Any]:
    """Return the settings that were changed of a stream, by key."""
    # Not from a copy that follows: who was told to look is to find it there.
    using = router.db_for_write(StreamSetting)
    rows = StreamSetting.objects.using(using).filter(stream=stream)
    return dict(rows.values_list("key", "value"))


def refreshed(config: StreamConfig) -> StreamConfig:
    """
    Return a stream's configuration with what was changed since, by anybody.

    Raises:
        django.db.Error: the database did not tell.
        ImproperlyConfigured: what is kept fits the settings no longer.
    """
    try:
        load(config.name)
    except DatabaseError as error:
        if not is_unmigrated(error):
            raise
    return configs.follow(config)


def change(config: StreamConfig, verb: Verb, key: str, value: Any) -> Any:
    """
    Change a setting of a stream, for all of its listeners, now and later.

    Args:
        config: of the stream.
        verb: of `conf.add_config`, `conf.remove_config` or `conf.replace_config`.
        key: as in ``WALEX``.
        value: as these have it.

    Returns the setting's new value.

    Raises:
        ImproperlyConfigured: it is no setting that can be changed so, or no value.
        django.db.Error: the database did not take it.
    """
    verbs = {
        "add": configs.add_config,
        "remove": configs.remove_config,
        "replace": configs.replace_config,
    }
    stream = config.name
    load(stream)
    using = router.db_for_write(StreamSetting)
    with transaction.atomic(using):
        # Who changes the same at the same time waits here, and adds to it then.
        row, _ = (
            StreamSetting.objects.using(using)
            .select_for_update()
            .get_or_create(
                stream=stream, key=key, defaults={"value": _in_force(config, key)}
            )
        )
        load(stream)
        verbs[verb](stream, key, value)
        row.value = _in_force(config, key)
        row.save(using=using)
    # Afterwards: the log tells of a COMMIT before others see what it has committed.
    announce(config)
    return row.value


def _in_force(config: StreamConfig, key: str) -> Any:
    """Return the value of a setting, as JSON has it."""
    written = configs.written(config.name)
    value = written.get(key, getattr(config, configs.attribute(key)))
    try:
        return json.loads(json.dumps(value, cls=DjangoJSONEncoder))
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{key} cannot be kept: {error}. Write functions as dotted paths."
        ) from error


def forget(config: StreamConfig, key: str) -> bool:
    """Go back to what the settings say. Return whether anything else was kept."""
    using = router.db_for_write(StreamSetting)
    with transaction.atomic(using):
        rows = StreamSetting.objects.using(using).filter(stream=config.name, key=key)
        found, _ = rows.delete()
    if found:
        announce(config)
    load(config.name)
    return bool(found)


def announce(config: StreamConfig) -> None:
    """Let the listeners of a stream know that its settings have changed."""
    with connections[config.database].cursor() as cursor:
        cursor.execute(
            "SELECT pg_logical_emit_message(true, %s, %s)",
            [PREFIX, json.dumps({"stream": config.name})],
        )
