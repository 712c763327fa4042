"""
How a stream is, as its server and the receivers' database tell.

Source: PostgreSQL, "pg_replication_slots" and "pg_stat_replication".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db import router

from . import runtime
from .models import ParkedEvent
from .replication import publications
from .replication.connection import Connection
from .stream_config import StreamConfig

_ASK = """
WITH log AS (
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_lsn() END AS lsn
)
SELECT slot.temporary, slot.active_pid, slot.wal_status,
    slot.confirmed_flush_lsn::text, slot.restart_lsn::text,
    (log.lsn - slot.confirmed_flush_lsn)::bigint, (log.lsn - slot.restart_lsn)::bigint,
    slot.safe_wal_size, host(reader.client_addr), reader.backend_start
FROM log CROSS JOIN pg_catalog.pg_replication_slots AS slot
LEFT JOIN pg_catalog.pg_stat_replication AS reader ON reader.pid = slot.active_pid
WHERE slot.slot_name = %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStatus:
    """
    A slot; positions and what follows from them are `None` where it has none.

    Attributes:
        active_pid: the server's process that its reader talks to.
        wal_status: ``"lost"`` where it cannot be read any more.
        confirmed_lsn, restart_lsn: up to where all is done, and from where on the
            server keeps its log.
        lag: bytes of log that are not done.
        retained: bytes of log that the server keeps for it.
        safe_wal_size: bytes until it may be lost, if there is a limit.
        client: address of the reader; `None` for a local one.
        since: when its reader has connected.
    """

    temporary: bool
    active_pid: int | None
    wal_status: str | None
    confirmed_lsn: str | None
    restart_lsn: str | None
    lag: int | None
    retained: int | None
    safe_wal_size: int | None
    client: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """
    A stream.

    Attributes:
        name, database: of the stream, and its alias in ``DATABASES``.
        server_version: of PostgreSQL.
        slot_name, slot: its name, and the slot if it is there.
        publications, tables: their names, and those of the tables that they send.
        changed: settings that were changed while the stream ran, by key.
        parked: calls of receivers that are parked.
    """

    name: str
    database: str
    server_version: str
    slot_name: str
    slot: SlotStatus | None
    publications: tuple[str, ...]
    tables: list[str]
    changed: dict[str, Any]
    parked: int

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as values for Django's JSON encoder."""
        return asdict(self)


def read(config: StreamConfig, connection: Connection) -> StreamStatus:
    """
    Ask how a stream is.

    Args:
        config: of the stream.
        connection: to its database.

    Raises:
        psycopg.Error, django.db.Error: one of the databases did not tell.
    """
    row = connection.execute(_ASK, [config.slot_name]).fetchone()
    tables = publications.tables(connection, config.publications)
    parked = ParkedEvent.objects.using(router.db_for_read(ParkedEvent))
    names = SlotStatus.__dataclass_fields__
    return StreamStatus(
        name=config.name,
        database=config.database,
        server_version=connection.info.parameter_status("server_version") or "",
        slot_name=config.slot_name,
        slot=SlotStatus(**dict(zip(names, row, strict=True))) if row else None,
        publications=config.publications,
        tables=list(map(str, tables)),
        changed=runtime.kept(config.name),
        parked=parked.filter(stream=config.name).count(),
    )
