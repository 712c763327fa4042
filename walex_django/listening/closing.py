"""
The end of a session that leaves nothing unread in the slot, not even its own writes.

``pg_upgrade`` carries a slot over only if all transactions of its database have been
acknowledged. Those that store the listener's report and checkpoint come last.

Source: PostgreSQL, ``LogicalReplicationSlotHasPendingWal``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import psycopg

from walex_django.conf.stream import StreamConfig
from walex_django.messages import OWN_PREFIX
from walex_django.monitoring.report import Report
from walex_django.pgoutput import copydata
from walex_django.pgoutput.copydata import KEEPALIVE, XLOG_DATA_HEADER, Keepalive
from walex_django.pgoutput.decoder import decode
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import LogicalMessage
from walex_django.provisioning.checkpoints import CheckpointWriter
from walex_django.replication import server
from walex_django.replication.connection import Connection, connect
from walex_django.replication.errors import ReplicationError
from walex_django.replication.progress import Progress
from walex_django.replication.stream import ReplicationConnection

_SLOTS_ARE_UPGRADED_SINCE = 170000
_PREFIX = f"{OWN_PREFIX}end"
_ROOM = 64 * 1024  # bytes of WAL, more than the last writes take
_TIMEOUT = 2  # seconds for each step
_POLL = 0.05  # seconds


def close(
    config: StreamConfig,
    connection: ReplicationConnection,
    progress: Progress,
    checkpoint: CheckpointWriter,
    report: Report,
) -> bool:
    """
    Store the report and the checkpoint, then acknowledge the WAL of these writes.

    The checkpoint contains the position that is acknowledged last. That position is
    after the checkpoint itself, so it is chosen in advance, and the WAL is filled up to
    it.

    Args:
        config: The stream's configuration.
        connection: The streaming connection, of which everything that was received has
            been processed.
        progress: The stream's progress.
        checkpoint: The slot's checkpoint.
        report: The listener's report.

    Returns:
        Whether it succeeded. If not, nothing was acknowledged, and the checkpoint has
        to be stored again. That is so if further changes arrive.
    """
    if connection.sql.info.server_version < _SLOTS_ARE_UPGRADED_SINCE:
        return False
    try:
        with connect(config.connection_parameters(), timeout=_TIMEOUT) as sql:
            if server.is_standby(sql):
                return False
            report.close(_TIMEOUT)
            end = Lsn(_insert_position(sql) + _ROOM)
            checkpoint.close(end)
            _fill(sql, end)
        if not _is_quiet(connection, progress, end):
            return False
        progress.finish(end)
        connection.send_progress(progress)
    except (ReplicationError, ProtocolError, psycopg.Error):
        return False
    return True


def is_read(unread: Iterable[bytes]) -> bool:
    """Return whether nothing was left unread that would have to be delivered."""
    return all(data[0] == KEEPALIVE for data in unread)


def _insert_position(sql: Connection) -> int:
    ((position,),) = sql.execute(
        "SELECT (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::bigint"
    )
    return int(position)


def _fill(sql: Connection, end: Lsn) -> None:
    missing = end - _insert_position(sql)
    if missing > 0:
        # With its header it ends after this position, where COMMITs may start again.
        content = json.dumps({"": " " * missing})
        sql.execute(
            "SELECT pg_catalog.pg_logical_emit_message(false, %s, %s, true)",
            [_PREFIX, content],
        )


def _is_quiet(connection: ReplicationConnection, progress: Progress, end: Lsn) -> bool:
    """Return whether nothing but our own writes arrives up to a position."""
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        connection.send_progress(progress, reply_requested=True)
        connection.wait(_POLL)
        for data in connection.receive():
            envelope = copydata.parse(data)
            if isinstance(envelope, Keepalive):
                if envelope.end_lsn >= end:
                    return True
            else:
                message = decode(data, XLOG_DATA_HEADER)
                if not isinstance(message, LogicalMessage):
                    return False
                if message.transactional or message.prefix != _PREFIX:
                    return False
    return False
