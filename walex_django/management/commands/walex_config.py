from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django.conf import configs, stored
from walex_django.conf.stream import StreamConfig
from walex_django.management.streams import CHECKS, command_errors, get_streams
from walex_django.provisioning.requirements import require_published
from walex_django.replication.connection import connect
from walex_django.replication.errors import ReplicationError

_SHOW, _RESET = "show", "reset"


class Command(BaseCommand):
    help = (
        "Changes settings of a stream at runtime. All of its listeners, on any machine,"
        " apply the change from the next transaction on, and keep it when they restart."
    )
    requires_system_checks = CHECKS

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "stream", metavar="STREAM", help="A stream of settings.WALEX."
        )
        parser.add_argument(
            "action",
            choices=[_SHOW, *stored.VERBS, _RESET],
            help="show: print the values in effect. add, remove: add or remove entries"
            " of a list or of FILTERS. replace: replace the whole value. reset: restore"
            " the value from settings.WALEX.",
        )
        parser.add_argument(
            "key", nargs="?", metavar="KEY", help=f"One of: {', '.join(_KEYS)}."
        )
        parser.add_argument(
            "values",
            nargs="*",
            default=[],
            metavar="VALUE",
            help="The entries of a list, for example: walex_config default add"
            " SUBSCRIPTIONS shop.Order shop.Item. For the other keys, one value; for"
            " FILTERS, JSON, for example: walex_config default add FILTERS"
            ' \'{"shop.Order": {"unwatched_fields": ["note"]}}\'.',
        )

    def handle(self, *args: Any, **options: Any) -> None:
        (config,) = get_streams([options["stream"]])
        verb, key, values = options["action"], options["key"], options["values"]
        if key is None and verb != _SHOW:
            raise CommandError(f"{verb} requires a KEY, one of: {', '.join(_KEYS)}.")
        with command_errors(config):
            # A row with an invalid key, inserted by hand, must still be removable.
            if key not in {None, *_KEYS} and not (
                verb == _RESET and stored.forget(config, key)
            ):
                raise CommandError(
                    f"{key} can't be changed with walex_config. These settings can:"
                    f" {', '.join(_KEYS)}."
                )
            if verb == _SHOW:
                stored.load(config.name)
            elif verb == _RESET:
                stored.forget(config, key)
            elif not values:
                raise CommandError(f"{verb} requires a VALUE.")
            else:
                stored.change(config, verb, key, _value(verb, key, values))
            self._show(config, [key] if key in _KEYS else _KEYS)
            if verb != _SHOW:
                self._warn(configs.follow(config))

    def _show(self, config: StreamConfig, keys: list[str]) -> None:
        changed = stored.kept(config.name)
        written = configs.written(config.name)
        for key in keys:
            value = written.get(key, getattr(config, configs.attribute(key)))
            text = json.dumps(value, ensure_ascii=False, default=str)
            mark = "  (changed)" if key in changed else ""
            self.stdout.write(f"{key} = {text}{mark}")

    def _warn(self, config: StreamConfig) -> None:
        """Warn about tables whose changes are not delivered until walex_setup runs."""
        try:
            with connect(config.connection_parameters()) as connection:
                require_published(config, connection)
        except (ReplicationError, ImproperlyConfigured) as error:
            self.stderr.write(self.style.WARNING(f"Warning: {error}"))


_KEYS = [key for key in configs.RUNTIME if key not in {"URL", "STATUS_INTERVAL"}]


def _value(verb: str, key: str, values: list[str]) -> Any:
    """Parse the VALUE arguments of the command line."""
    is_list = key in {"SUBSCRIPTIONS", "MODULES", "MESSAGES"}
    if (is_list and not values[0].startswith("[")) or (
        verb == "remove" and key == "FILTERS"
    ):
        return values
    try:
        return json.loads(" ".join(values))
    except json.JSONDecodeError:
        if is_list or key == "FILTERS":
            raise CommandError(f"{' '.join(values)} is not valid JSON.") from None
        return " ".join(values)
