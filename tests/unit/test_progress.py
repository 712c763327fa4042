from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from walex_django.pgoutput.lsn import Lsn
from walex_django.replication.progress import Progress


@pytest.fixture
def progress() -> Progress:
    return Progress()


def test_nothing_is_confirmed_at_first(progress: Progress) -> None:
    assert (progress.received, progress.confirmed, progress.sent) == (0, 0, 0)


def test_finished_transaction_confirms_its_end(progress: Progress) -> None:
    progress.begin()
    progress.finish(Lsn(100))

    assert progress.confirmed == 100
    assert progress.received == 100


def test_begun_transaction_confirms_nothing(progress: Progress) -> None:
    progress.finish(Lsn(100))
    progress.begin()

    assert progress.confirmed == 100


def test_keepalive_inside_a_transaction_confirms_nothing(progress: Progress) -> None:
    progress.finish(Lsn(100))
    progress.begin()
    progress.keepalive(Lsn(500))

    assert progress.confirmed == 100


def test_keepalive_inside_a_transaction_is_received(progress: Progress) -> None:
    progress.begin()
    progress.keepalive(Lsn(500))

    assert progress.received == 500


def test_finish_does_not_confirm_a_keepalive_inside_the_transaction(
    progress: Progress,
) -> None:
    progress.begin()
    progress.keepalive(Lsn(500))
    progress.finish(Lsn(200))

    assert progress.confirmed == 200
    assert progress.received == 500


def test_keepalive_outside_a_transaction_confirms_exactly_its_position(
    progress: Progress,
) -> None:
    progress.keepalive(Lsn(500))

    assert progress.confirmed == 500
    assert progress.received == 500


def test_keepalive_after_a_finished_transaction_confirms(progress: Progress) -> None:
    progress.begin()
    progress.finish(Lsn(100))
    progress.keepalive(Lsn(150))

    assert progress.confirmed == 150


def test_older_keepalive_moves_nothing_back(progress: Progress) -> None:
    progress.keepalive(Lsn(500))
    progress.keepalive(Lsn(400))

    assert (progress.received, progress.confirmed) == (500, 500)


def test_resent_transaction_moves_nothing_back(progress: Progress) -> None:
    progress.keepalive(Lsn(500))
    progress.begin()
    progress.finish(Lsn(400))

    assert (progress.received, progress.confirmed) == (500, 500)


def test_positions_print_as_log_sequence_numbers(progress: Progress) -> None:
    progress.keepalive(Lsn(0x16B3748))

    assert str(progress.confirmed) == "0/16B3748"
    assert str(progress.received) == "0/16B3748"


class Stream(RuleBasedStateMachine):
    """
    A server's WAL and its walsender.

    After a restart the server sends each transaction whose COMMIT record starts at
    the confirmed position or later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()
        self.wal_end = 0
        self.commit: tuple[int, int] | None = None
        self.done: list[int] = []
        self.before = Progress()

    @rule(size=st.integers(1, 50))
    def others_write(self, size: int) -> None:
        self.wal_end += size

    @precondition(lambda self: self.commit is None)
    @rule(size=st.integers(1, 50))
    def begin(self, size: int) -> None:
        # The COMMIT starts where the WAL ended: exactly at a keepalive's position.
        self.commit = (self.wal_end, self.wal_end + size)
        self.wal_end += size
        self.progress.begin()

    @precondition(lambda self: self.commit is not None)
    @rule()
    def finish(self) -> None:
        assert self.commit is not None
        self.progress.finish(Lsn(self.commit[1]))
        self.done.append(self.commit[1])
        self.commit = None

    @rule(back=st.integers(0, 100))
    def keepalive(self, back: int) -> None:
        position = max(0, self.wal_end - back)
        self.progress.keepalive(Lsn(position))
        assert self.progress.received >= position
        if self.commit is None:
            assert self.progress.confirmed >= position

    @invariant()
    def unfinished_transaction_would_be_resent(self) -> None:
        if self.commit is not None:
            assert self.progress.confirmed <= self.commit[0]

    @invariant()
    def finished_transactions_would_not_be_resent(self) -> None:
        assert self.progress.confirmed >= max(self.done, default=0)

    @invariant()
    def nothing_is_confirmed_that_was_not_received(self) -> None:
        assert self.progress.confirmed <= self.progress.received <= self.wal_end

    @invariant()
    def nothing_moves_back(self) -> None:
        assert self.progress.confirmed >= self.before.confirmed
        assert self.progress.received >= self.before.received
        self.before.confirmed = self.progress.confirmed
        self.before.received = self.progress.received


TestStream = Stream.TestCase
