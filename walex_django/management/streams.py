"""What the commands share: the choice of streams, and errors as people read them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from walex_django.conf.configs import get_config, get_configs
from walex_django.conf.receivers_database import known_error
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.delivery.middleware import MiddlewareFailed
from walex_django.replication.connection import one_line, sql_error
from walex_django.replication.errors import ReplicationError

CHECKS = ["walex_django"]
"""
The tags of the system checks that the commands run: those of walex_django alone.

Others may ask a database that is away, for which a listener waits.
"""


def add_stream_option(parser: CommandParser) -> None:
    """Add ``--stream`` to a command."""
    parser.add_argument(
        "--stream",
        action="append",
        dest="streams",
        metavar="NAME",
        default=[],
        help="A key of settings.WALEX; may be repeated. Default: all of them.",
    )


def chosen(names: Sequence[str]) -> list[StreamConfig]:
    """
    Return the streams of these names, or all if there are none.

    Raises:
        CommandError: the settings have no such stream, or are wrong.
    """
    try:
        # One name given twice is one stream.
        return [get_config(name) for name in dict.fromkeys(names or get_configs())]
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error


@contextmanager
def reported(config: StreamConfig) -> Iterator[None]:
    """Turn what can go wrong with a stream into one line for people."""
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError("Interrupted.") from None
    except psycopg.Error as error:
        known = sql_error(error, slot=config.slot_name)
        raise CommandError(f"{config.name}: {describe(known)}") from error
    except (ReplicationError, ImproperlyConfigured, DatabaseError) as error:
        known_to_us = isinstance(error, DatabaseError) and known_error(error)
        raise CommandError(
            f"{config.name}: {describe(known_to_us or error)}"
        ) from error


def describe(error: BaseException) -> str:
    """
    Return what is told of an error.

    One line for what the user can mend, the traceback for a receiver's or our own
    mistake.
    """
    if isinstance(error, DatabaseError) and isinstance(error.__cause__, psycopg.Error):
        return one_line(error.__cause__)  # the rest may quote values
    if isinstance(error, ReplicationError | ImproperlyConfigured | DatabaseError):
        return " ".join(str(error).split())
    if isinstance(error, ReceiverFailed):
        return f"{error}; its transaction is not acknowledged.\n{error.traceback}"
    if isinstance(error, MiddlewareFailed) and error.__cause__:
        lines = traceback.format_exception(error.__cause__)
        return f"{error}; its transaction is not acknowledged.\n{''.join(lines)}"
    return "".join(traceback.format_exception(error))
