"""What was received and what may be acknowledged."""

from __future__ import annotations

from walex_django.pgoutput.lsn import Lsn


class Progress:
    """
    The position of a stream.

    Only a position behind which all work is done may be confirmed: the server never
    sends again what lies before it.

    Attributes:
        received: up to here the log was read; at least ``confirmed``.
        confirmed: up to here nothing is left to do. Never moves back.
        sent: the ``confirmed`` of the last status that was sent.
    """

    __slots__ = ("_in_transaction", "confirmed", "received", "sent")

    def __init__(self) -> None:
        self.received = self.confirmed = self.sent = Lsn(0)
        self._in_transaction = False

    def begin(self) -> None:
        """A transaction starts to arrive."""
        self._in_transaction = True

    def finish(self, end_lsn: Lsn, *, more: bool = False) -> None:
        """
        All the work of a transaction is done.

        Args:
            end_lsn: its Commit's.
            more: of later ones, something was received already.
        """
        self._in_transaction = more
        self._advance(end_lsn)

    def keepalive(self, end_lsn: Lsn) -> None:
        """
        Everything before ``end_lsn`` was received.

        With no transaction in flight it is done too: what lies between was of other
        databases and tables. The position itself, never the byte after it: the COMMIT
        of a transaction still open can start exactly there.
        """
        self.received = max(self.received, end_lsn)
        if not self._in_transaction:
            self._advance(end_lsn)

    def _advance(self, lsn: Lsn) -> None:
        # In this order: another thread must never see less received than confirmed.
        self.received = max(self.received, lsn)
        self.confirmed = max(self.confirmed, lsn)
