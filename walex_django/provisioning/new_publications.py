"""
Publications that are created for a slot that already exists.

A slot decodes each change with the system catalog as it was at the change's position. A
change that was made before a publication was created can't be decoded with it, and the
slot can't get past that change. Such changes have to be read without the publication.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from walex_django.conf.stream import StreamConfig
from walex_django.pgoutput.lsn import Lsn
from walex_django.replication import peeking, server, slots, transactions
from walex_django.replication.connection import BoundedConnection
from walex_django.replication.errors import PublicationMissing
from walex_django.replication.locks import Blocker

from . import checkpoints
from .execution import wait_timeout

_POLL = 0.3  # seconds between two looks at the slot


def pass_creation(
    config: StreamConfig,
    connection: BoundedConnection,
    created: Collection[str],
    *,
    timeout: float = math.inf,
    report: Callable[[str], object],
) -> None:
    """
    Bring a stream's slot past the creation of publications, without losing changes.

    A listener that still runs without the new publications does this by reading. If no
    listener is running and no changes are left, the slot is advanced.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.
        created: The publications that have just been created. If there are none, the
            slot is checked, unless it is in use: an earlier call may have failed.
        timeout: The seconds to wait for running transactions and for the listener.
        report: A callable that is called with the reason for a wait.

    Raises:
        LockTimeout: A transaction or the listener took too long.
        PublicationMissing: Changes have to be delivered first; the hint says how.
        psycopg.Error: A query failed.
    """
    slot = slots.find(connection, config.slot_name)
    if slot is None or not config.durable_slot:
        return
    with connection.long_wait():
        new = set(created)
        if slot.active_pid is None and not new:
            new = _unreadable(config, connection)
        if new:
            _Passage(config, connection, new, timeout, report).run()


def _unreadable(config: StreamConfig, connection: BoundedConnection) -> set[str]:
    """Return the publications that the slot's next change can't be decoded with."""
    name, names = config.slot_name, config.publications
    # With a single publication, only a listener's error shows that changes are lost.
    if len(names) == 1 or peeking.is_readable(connection, name, names):
        return set()
    return {each for each in names if not peeking.is_readable(connection, name, [each])}


@dataclass(frozen=True, slots=True)
class _Passage:
    config: StreamConfig
    connection: BoundedConnection
    new: set[str]
    timeout: float
    report: Callable[[str], object]

    def run(self) -> None:
        config, connection = self.config, self.connection
        deadline = time.monotonic() + self.timeout
        self._wait_for_transactions()
        # All changes before this position are older than the publications, or come from
        # transactions that are. All later ones are newer.
        target = peeking.mark(connection)
        reported = False
        while True:
            slot = slots.require(connection, config.slot_name)
            if slot.confirmed_lsn is not None and slot.confirmed_lsn >= target:
                return
            if slot.active_pid is None:
                self._advance(target)
                return
            if time.monotonic() >= deadline:
                raise wait_timeout(f"{self._what} to the stream", [], self.timeout)
            if not reported:
                self.report(
                    f'waiting for the listener that reads the slot "{slot.name}" to'
                    f" reach {target}, past the creation of {self._listed}"
                )
                reported = True
            time.sleep(_POLL)

    @property
    def _listed(self) -> str:
        names = ", ".join(f'"{name}"' for name in sorted(self.new))
        return f"the publication {names}"

    @property
    def _what(self) -> str:
        return f"add {self._listed}"

    def _wait_for_transactions(self) -> None:
        def on_change(found: list[Blocker]) -> None:
            for blocker in found:
                self.report(f"waiting for {blocker} to {self._what}")

        connection = self.connection
        next_id = transactions.next_id(connection)
        left = transactions.wait(
            lambda: transactions.older(connection, next_id),
            timeout=self.timeout,
            on_change=on_change,
        )
        if left:
            raise wait_timeout(f"{self._what} to the stream", left, self.timeout)

    def _advance(self, target: Lsn) -> None:
        config, connection = self.config, self.connection
        old = [name for name in config.publications if name not in self.new]
        if not old:
            if not peeking.is_readable(connection, config.slot_name, [*self.new]):
                raise self._refusal(old)
            return
        if peeking.has_changes(connection, config.slot_name, old, until=target):
            raise self._refusal(old)
        slots.advance(connection, config.slot_name, target)
        system, _ = server.identity(connection)
        slot = slots.require(connection, config.slot_name)
        checkpoints.follow(system, slot)

    def _refusal(self, old: list[str]) -> PublicationMissing:
        name = self.config.name
        previous = f"PUBLICATION = {old}" if old else "their PUBLICATION"
        dropped = (
            ""
            if old
            else (
                f" If the publication had been dropped, these changes are lost: run"
                f" {slots.RECREATE} --stream {name} instead."
            )
        )
        return PublicationMissing(
            f'The slot "{self.config.slot_name}" still has to read changes that were'
            f" made before {self._listed} was created, and they can't be read with it.",
            hint=f"Restore the previous settings, with {previous}, stop the listener"
            f" and run: python manage.py walex_listen --stream {name} --drain. Then"
            " apply the new settings again and run: python manage.py walex_setup"
            f" --stream {name}{'.' if dropped else ''}{dropped}",
        )
