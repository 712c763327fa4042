"""The received and acknowledged positions of a stream."""

from __future__ import annotations

from walex_django.pgoutput.lsn import Lsn


class Progress:
    """
    Tracks the position of a stream.

    A position may be confirmed only once everything before it was processed: the server
    never sends that part again.

    Attributes:
        received: The position up to which the WAL was received; at least ``confirmed``.
        confirmed: The position up to which everything was processed. It never
            decreases.
        sent: The ``confirmed`` position of the last status update that was sent.
    """

    __slots__ = ("_in_transaction", "confirmed", "received", "sent")

    def __init__(self) -> None:
        self.received = self.confirmed = self.sent = Lsn(0)
        self._in_transaction = False

    @property
    def is_settled(self) -> bool:
        """Whether everything that was received is confirmed."""
        return not self._in_transaction and self.confirmed >= self.received

    def begin(self) -> None:
        """Record that a transaction has started to arrive."""
        self._in_transaction = True

    def finish(self, end_lsn: Lsn, *, more: bool = False) -> None:
        """
        Record that a transaction was processed completely.

        Args:
            end_lsn: The ``end_lsn`` of its Commit.
            more: Whether part of a later transaction was already received.
        """
        self._in_transaction = more
        self._advance(end_lsn)

    def keepalive(self, end_lsn: Lsn) -> None:
        """
        Record that everything before ``end_lsn`` was received.

        Without a transaction in progress it is confirmed as well, because the WAL in
        between belonged to other databases and tables. The confirmed position is
        ``end_lsn`` itself, never a byte more: the COMMIT of a transaction that is still
        open can start exactly there.
        """
        self.received = max(self.received, end_lsn)
        if not self._in_transaction:
            self._advance(end_lsn)

    def _advance(self, lsn: Lsn) -> None:
        # The order matters: another thread must never see received < confirmed.
        self.received = max(self.received, lsn)
        self.confirmed = max(self.confirmed, lsn)
