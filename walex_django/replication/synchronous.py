"""
Streams must not become synchronous standbys, for which every COMMIT waits.

Source: PostgreSQL, "synchronous_standby_names"; its ``syncrep_scanner.l``.
"""

from __future__ import annotations

import re

from .errors import NotPrepared

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)|(\()')


def require_asynchronous(names: str, application: str) -> None:
    """
    Raise if a walsender would be a synchronous standby, or might become one.

    COMMITs would then wait until receivers have returned, and if these commit
    themselves, for ever.

    Args:
        names: The server's ``synchronous_standby_names``.
        application: The walsender's ``application_name``.

    Raises:
        NotPrepared: The names include the application.
    """
    if covers(names, application):
        raise NotPrepared(
            f"synchronous_standby_names = '{names}' makes the stream"
            f' "{application}" a synchronous standby: every COMMIT on the server would'
            " wait for its receivers.",
            hint="Name the real standbys instead. Run as superuser: ALTER SYSTEM SET"
            " synchronous_standby_names = 'name, …'; SELECT pg_reload_conf();",
        )


def covers(names: str, application: str) -> bool:
    """Return whether a value of ``synchronous_standby_names`` includes a name."""
    found: list[str] = []
    for quoted, plain, opening in _TOKEN.findall(names):
        if opening:
            # What precedes it is a number, perhaps with FIRST or ANY.
            found.clear()
        else:
            found.append(plain or quoted.replace('""', '"'))
    return any(name == "*" or name.lower() == application.lower() for name in found)
