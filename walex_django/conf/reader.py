"""Parse ``settings.WALEX`` into stream configurations, and find problems in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connections

from .parsers import KEYS, did_you_mean, slot_name
from .stream import StreamConfig

_MAX_STREAM_NAME = 200  # characters


class Problem(NamedTuple):
    """
    A problem with the configuration.

    Attributes:
        id: The id of the system check, such as ``"E001"``.
        message: A sentence that states the problem.
        hint: How to fix it; may be empty.
    """

    id: str
    message: str
    hint: str


def read(walex: object) -> tuple[dict[str, StreamConfig], list[Problem]]:
    """
    Parse ``settings.WALEX``.

    Args:
        walex: The value of the setting.

    Returns:
        The valid streams by name, and the problems of all others.
    """
    if walex is None or walex == {}:
        hint = 'Add WALEX = {"default": {"PUBLICATION": "…"}} to your settings.'
        return {}, [Problem("W001", "WALEX does not define any streams.", hint)]
    if not isinstance(walex, Mapping):
        hint = (
            'Write WALEX = {"default": {…}}, with the settings of each stream by name.'
        )
        return {}, [Problem("E001", "WALEX must be a dict.", hint)]
    if walex.keys() <= KEYS.keys():
        hint = 'Nest them under the name of a stream: WALEX = {"default": {…}}.'
        message = "WALEX contains settings where it needs stream names."
        return {}, [Problem("E001", message, hint)]
    configs: dict[str, StreamConfig] = {}
    problems: list[Problem] = []
    for name, options in walex.items():
        config, stream_problems = _read_stream(name, options)
        problems += stream_problems
        if config:
            configs[config.name] = config
    return configs, problems + _shared_slots(configs.values())


def _read_stream(
    name: object, options: object
) -> tuple[StreamConfig | None, list[Problem]]:
    path = f"WALEX[{name!r}]"
    if not (isinstance(name, str) and name):
        hint = "Give the stream a name, such as 'default'."
        message = f"{path}: the stream name must be a non-empty string."
        return None, [Problem("E001", message, hint)]
    # The name is stored in database columns and is part of the admin's URLs.
    if len(name) > _MAX_STREAM_NAME or not name.isprintable():
        hint = "Give the stream another name, such as 'default'."
        message = (
            f"{path}: the stream name must have at most {_MAX_STREAM_NAME} characters,"
            " all of them printable."
        )
        return None, [Problem("E001", message, hint)]
    if not isinstance(options, Mapping):
        hint = f'Write {path} = {{"PUBLICATION": "…"}}.'
        return None, [Problem("E001", f"{path} must be a dict.", hint)]
    default_name = slot_name(f"{name}_walex")
    values: dict[str, Any] = {}
    problems = []
    options = {"PUBLICATION": default_name, "SLOT_NAME": default_name, **options}
    for key, value in options.items():
        if key not in KEYS:
            problems.append(
                Problem(
                    "E002",
                    f"{path} has an unknown key {key!r}.",
                    did_you_mean(key, KEYS),
                )
            )
            continue
        attribute, parse = KEYS[key]
        try:
            values[attribute] = parse(value)
        except ValueError as error:
            message, _, hint = str(error).partition("\n")
            # A URL may contain a password.
            if message.startswith("must be") and key != "URL":
                message = f"{message}, not {value!r}"
            problems.append(Problem("E003", f"{path}[{key!r}] {message}.", hint))
    if problems:
        return None, problems
    config = StreamConfig(name=name, **values)
    problems = _database_problems(path, config) + _slot_problems(path, config)
    return (None if problems else config), problems


def _database_problems(path: str, config: StreamConfig) -> list[Problem]:
    if config.database not in settings.DATABASES:
        return [
            Problem(
                "E004",
                f"{path}['DATABASE'] is {config.database!r}, which is not in"
                " DATABASES.",
                did_you_mean(config.database, settings.DATABASES),
            )
        ]
    if connections[config.database].vendor != "postgresql":
        return [
            Problem(
                "E004",
                f"{path}: the database {config.database!r} is not PostgreSQL.",
                "Set DATABASE to an alias with the engine"
                " django.db.backends.postgresql.",
            )
        ]
    return []


def _slot_problems(path: str, config: StreamConfig) -> list[Problem]:
    if config.durable_slot:
        return []
    return [
        Problem(
            "E007",
            f"{path}[{key!r}] requires a durable slot, but the stream's slot is"
            " temporary.",
            f"Add 'DURABLE_SLOT': True, or remove {key!r}.",
        )
        for key, enabled in (("ATOMIC", config.atomic), ("FAILOVER", config.failover))
        if enabled
    ]


def _shared_slots(configs: Iterable[StreamConfig]) -> list[Problem]:
    problems = []
    first: dict[object, StreamConfig] = {}
    for config in configs:
        slot = (config.database, config.url, config.slot_name)
        other = first.setdefault(slot, config)
        if other is not config:
            problems.append(
                Problem(
                    "E005",
                    f"The streams {other.name!r} and {config.name!r} share the slot"
                    f" {config.slot_name!r}.",
                    "Give each stream its own SLOT_NAME.",
                )
            )
    return problems
