from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from walex_django import conf, runtime
from walex_django.conf import StreamConfig
from walex_django.management.streams import chosen, reported
from walex_django.plan import require_published
from walex_django.replication.connection import connect
from walex_django.replication.errors import ReplicationError

_SHOW, _RESET = "show", "reset"


class Command(BaseCommand):
    help = (
        "Changes settings of a stream while it runs. Its listeners, wherever they are,"
        " follow at the next transaction, and start with them from then on."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("stream", help="A key of settings.WALEX.")
        parser.add_argument(
            "verb",
            choices=[_SHOW, *runtime.VERBS, _RESET],
            help="show: what is in force. add, remove: entries of a list, or of"
            " FILTERS. replace: the whole. reset: back to what settings.WALEX has.",
        )
        parser.add_argument("key", nargs="?", help=f"One of {', '.join(_KEYS)}.")
        parser.add_argument(
            "values",
            nargs="*",
            help="Entries, or one value as JSON: walex_config default add FILTERS"
            ' \'{"shop.Order": {"unwatched_fields": ["note"]}}\'.',
        )

    def handle(self, *args: Any, **options: Any) -> None:
        (config,) = chosen([options["stream"]])
        verb, key, values = options["verb"], options["key"], options["values"]
        with reported(config):
            if verb == _SHOW:
                runtime.refreshed(config)
                self._show(config, [key] if key else _KEYS)
                return
            if key is None:
                raise CommandError(f"{verb} needs a KEY: one of {', '.join(_KEYS)}.")
            if key not in _KEYS:
                raise CommandError(
                    f"{key} cannot be changed so: only {', '.join(_KEYS)}."
                )
            if verb == _RESET:
                if not runtime.forget(config, key):
                    self.stdout.write(
                        f"{config.name}: {key} is as settings.WALEX has it"
                    )
            elif not values:
                raise CommandError(f"{verb} needs a VALUE.")
            else:
                runtime.change(config, verb, key, _value(verb, key, values))
            self._show(config, [key])
            self._warn(conf.follow(config))

    def _show(self, config: StreamConfig, keys: list[str]) -> None:
        kept = runtime.kept(config.name)
        written = conf.written(config.name)
        for key in keys:
            value = written.get(key, getattr(config, conf.attribute(key)))
            text = json.dumps(value, ensure_ascii=False, default=str)
            mark = "  (changed)" if key in kept else ""
            self.stdout.write(f"{key} = {text}{mark}")

    def _warn(self, config: StreamConfig) -> None:
        """Tell of tables whose changes will not come before walex_setup was run."""
        try:
            with connect(config.connection_parameters()) as connection:
                require_published(config, connection)
        except (ReplicationError, ImproperlyConfigured) as error:
            self.stderr.write(self.style.WARNING(f"Warning: {error}"))


_KEYS = [key for key in conf.RUNTIME if key not in {"URL", "STATUS_INTERVAL"}]


def _value(verb: str, key: str, values: list[str]) -> Any:
    """Return what is meant by words of the command line."""
    is_list = key in {"SUBSCRIPTIONS", "MODULES", "MESSAGES"}
    if is_list or (verb == "remove" and key == "FILTERS"):
        return values
    try:
        return json.loads(" ".join(values))
    except json.JSONDecodeError:
        if key == "FILTERS":
            raise CommandError(f"FILTERS are JSON, and {values[0]!r} is not.") from None
        return " ".join(values)
