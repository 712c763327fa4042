"""The ``--stream`` option and the error reporting that the commands share."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

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
Tags of the system checks that the commands run: only those of walex_django.

Other checks may query a database that is unavailable, and the listener has to wait for
such a database instead of failing.
"""


def add_stream_option(parser: CommandParser) -> None:
    """Add the option ``--stream`` to a command."""
    parser.add_argument(
        "--stream",
        action="append",
        dest="streams",
        metavar="NAME",
        default=[],
        help="A stream of settings.WALEX. May be repeated. Default: all streams.",
    )


def get_streams(names: Sequence[str]) -> list[StreamConfig]:
    """
    Return the configurations of the named streams, or of all streams.

    Args:
        names: The names given with ``--stream``. If empty, all streams are returned.

    Raises:
        CommandError: If a stream does not exist, or the settings are invalid.
    """
    try:
        # A name that is given twice still means one stream.
        return [get_config(name) for name in dict.fromkeys(names or get_configs())]
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error


@contextmanager
def command_errors(config: StreamConfig) -> Iterator[None]:
    """
    Convert expected errors of a stream into a `CommandError` of one line.

    Args:
        config: The stream's configuration.

    Raises:
        CommandError: If the block raises an error that the user can fix.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError("Interrupted.") from None
    except psycopg.Error as error:
        known = sql_error(error, slot=config.slot_name)
        raise CommandError(f"{config.name}: {format_error(known)}") from error
    except (ReplicationError, ImproperlyConfigured, DatabaseError) as error:
        explained = isinstance(error, DatabaseError) and known_error(error)
        raise CommandError(
            f"{config.name}: {format_error(explained or error)}"
        ) from error


@contextmanager
def interruptible() -> Iterator[None]:
    """
    Treat SIGTERM like Ctrl-C, so that the running statement is cancelled.

    Otherwise the process would end, and the server would still execute the statement.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def format_error(error: BaseException) -> str:
    """
    Format an error for the terminal.

    An error that the user can fix becomes one line. An error in a receiver, in a
    middleware or in walex_django itself includes its traceback.

    Args:
        error: The error.

    Returns:
        The text of the error.
    """
    if isinstance(error, DatabaseError) and isinstance(error.__cause__, psycopg.Error):
        return one_line(error.__cause__)  # the details may quote values
    if isinstance(error, ReplicationError | ImproperlyConfigured | DatabaseError):
        return " ".join(str(error).split())
    if isinstance(error, ReceiverFailed):
        return f"{error}; its transaction is not acknowledged.\n{error.traceback}"
    if isinstance(error, MiddlewareFailed) and error.__cause__:
        lines = traceback.format_exception(error.__cause__)
        return f"{error}; its transaction is not acknowledged.\n{''.join(lines)}"
    return "".join(traceback.format_exception(error))
