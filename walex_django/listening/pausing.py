"""Pausing a stream: the slot is held, and nothing is read from it."""

from __future__ import annotations

from threading import Event

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections

from walex_django import log
from walex_django.conf import receivers_database, stored
from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerState
from walex_django.monitoring.report import Report
from walex_django.replication.errors import StreamPaused
from walex_django.replication.progress import Progress
from walex_django.replication.stream import ReplicationConnection

logger = log.logger(__name__)

_POLL = 1.0  # seconds between two checks whether the stream has been resumed


def pause(
    config: StreamConfig,
    connection: ReplicationConnection,
    progress: Progress,
    *,
    report: Report,
    stopped: Event,
    draining: bool,
) -> None:
    """
    Read nothing until the stream is resumed or stopped.

    Args:
        config: The stream's configuration, without changes made at runtime.
        connection: The connection that reads the slot.
        progress: The progress of its stream.
        report: The listener's report.
        stopped: Set when the listener stops.
        draining: Whether the listener ends at a position, which a pause would block.

    Raises:
        StreamPaused: The stream is being drained.
    """
    name, pid = config.name, connection.backend_pid
    resume = f"python manage.py walex_config {name} replace PAUSED false"
    if draining:
        raise StreamPaused(
            f"The stream {name!r} is paused.", hint=f"To resume it, run: {resume}"
        )
    logger.info(
        "Stream %s is paused. To resume it, run: %s",
        *(name, resume),
        extra={"state": ListenerState.PAUSED.value},
    )
    report.set_state(ListenerState.PAUSED, backend_pid=pid)
    while _is_paused(config) and not stopped.wait(_POLL):
        connection.send_progress(progress)
    report.hold.clear()
    if not stopped.is_set():
        running = {"state": ListenerState.RUNNING.value}
        logger.info("Stream %s resumed", name, extra=running)
        report.set_state(ListenerState.RUNNING, backend_pid=pid)


def _is_paused(config: StreamConfig) -> bool:
    try:
        return stored.refreshed(config).paused
    except (DatabaseError, ImproperlyConfigured):
        # Raising would end the stream's own connection, and with it a temporary slot.
        connections[receivers_database.database()].close()
        return True
