"""
What a stream is told to do while it runs, by whoever can reach its database.

It is kept in a table, for listeners that start later, and told by a logical message in
the stream itself: that needs no other connection, passes poolers, and takes effect at a
place in the log.

Source: WalEx, ``WalEx.Config``, whose changes are known to its own process only.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias, get_args

from django.db import Error as DatabaseError
from django.db import connections, router, transaction

from . import conf
from .conf import StreamConfig
from .models import StreamSetting
from .receivers_database import is_unmigrated

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
    """
    conf.override(stream, kept(stream))


def kept(stream: str) -> dict[str, Any]:
    """Return the settings that were changed of a stream, by key."""
    using = router.db_for_read(StreamSetting)
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
    return conf.follow(config)


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
    load(config.name)
    verbs = {
        "add": conf.add_config,
        "remove": conf.remove_config,
        "replace": conf.replace_config,
    }
    verbs[verb](config.name, key, value)
    changed = conf.written(config.name)[key]
    using = router.db_for_write(StreamSetting)
    with transaction.atomic(using):
        StreamSetting.objects.using(using).update_or_create(
            stream=config.name, key=key, defaults={"value": changed}
        )
        tell(config)
    return changed


def forget(config: StreamConfig, key: str) -> bool:
    """Go back to what the settings say. Return whether anything else was kept."""
    using = router.db_for_write(StreamSetting)
    with transaction.atomic(using):
        rows = StreamSetting.objects.using(using).filter(stream=config.name, key=key)
        found, _ = rows.delete()
        if found:
            tell(config)
    load(config.name)
    return bool(found)


def tell(config: StreamConfig) -> None:
    """Let the listeners of a stream know that its settings have changed."""
    with connections[config.database].cursor() as cursor:
        cursor.execute(
            "SELECT pg_logical_emit_message(true, %s, %s)",
            [PREFIX, json.dumps({"stream": config.name})],
        )
