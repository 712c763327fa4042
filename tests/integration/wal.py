"""Read the WAL through a separate slot."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from walex_django.pgoutput.decoder import decode
from walex_django.pgoutput.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Update,
)

PREFIX = "walex_django.context"


class WalReader:
    """
    Reads everything written to the WAL from now on.

    Args:
        sql: A session. The slot lasts as long as the session.
    """

    def __init__(self, sql: psycopg.Connection[Any]) -> None:
        self._sql = sql
        sql.execute(
            "SELECT pg_create_logical_replication_slot('zoo_log', 'pgoutput', true)"
        )

    def messages(self) -> list[Message]:
        """Return the messages since the last call."""
        rows = self._sql.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes('zoo_log', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'zoo_events',"
            " 'messages', 'true')"
        )
        return [decode(data) for (data,) in rows]

    def transactions(self) -> list[list[Any]]:
        """Return the contexts and kinds of changes of each transaction, in order."""
        transactions: list[list[Any]] = []
        for message in self.messages():
            match message:
                case Begin():
                    transactions.append([])
                case LogicalMessage(transactional=True):
                    assert message.prefix == PREFIX
                    transactions[-1].append(json.loads(message.content))
                case Insert() | Update() | Delete():
                    transactions[-1].append(type(message).__name__)
                case LogicalMessage():
                    raise AssertionError(message)
                case Commit():
                    pass
        return transactions
