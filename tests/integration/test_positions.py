"""The stored position is enough to resume a stream, or to refuse to."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.process import eventually
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.models import Checkpoint
from walex_django.pgoutput.lsn import Lsn
from walex_django.provisioning import checkpoints
from walex_django.provisioning.checkpoints import CheckpointWriter, SlotPlace
from walex_django.replication.errors import SlotBroken, SlotInUse, SlotWaiting
from walex_django.replication.slots import Slot

from .stream import OwnStream, Stream
from .test_mistakes import fails

pytestmark = pytest.mark.django_db(transaction=True)

ENDS = pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
SYSTEM = 7


def slot_at(start: int) -> Slot:
    """Return a slot that can be resumed."""
    return Slot(
        name="zoo_walex",
        plugin="pgoutput",
        database="zoo",
        temporary=False,
        active_pid=None,
        failover=False,
        synced=False,
        lost="",
        confirmed_lsn=Lsn(start),
    )


class TestWithoutTimeZones:
    """The processes run with USE_TZ = False."""

    @pytest.fixture
    def naive(self, stream: Stream) -> Stream:
        return Stream({**stream.env, "ZOO_USE_TZ": "no"})

    @ENDS
    def test_stream_resumes(self, naive: Stream, end: signal.Signals) -> None:
        naive.deliver("before", end=end)
        naive.deliver("after")
        assert list(dict.fromkeys(naive.delivered())) == ["before", "after"]

    def test_recreated_slot_is_refused(self, naive: Stream) -> None:
        naive.deliver("before", end=signal.SIGKILL)
        start = naive.recreate_slot("lost")

        line = fails("walex_listen", naive.env)
        assert 'The slot "zoo_walex" was recreated, or moved by another client' in line
        assert f"and now starts at {start}." in line


class TestCleanShutdown:
    """A listener that is stopped stores exactly the position that it acknowledged."""

    def test_position_is_stored_after_the_orm_lost_its_connection(
        self, own_stream: OwnStream
    ) -> None:
        with own_stream.listening() as listener:
            own_stream.write("before")
            eventually(lambda: own_stream.delivered() == ["before"])
            eventually(lambda: self._confirmed(own_stream)[1], "the acknowledgement")
            ended = own_stream.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND state = 'idle'"
            )
            assert ended
            assert all(done for (done,) in ended)
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0, listener.output
        assert "could not be stored" not in listener.output
        acknowledged, _ = self._confirmed(own_stream)
        ((confirmed,),) = own_stream.execute(
            "SELECT confirmed FROM walex_django_checkpoint"
            " WHERE slot_name = 'zoo_walex'"
        )
        assert confirmed == acknowledged

    def _confirmed(self, stream: Stream) -> tuple[int, bool]:
        ((confirmed, all_of_it),) = stream.execute(
            "SELECT (confirmed_flush_lsn - '0/0')::bigint,"
            " confirmed_flush_lsn >= pg_current_wal_flush_lsn()"
            " FROM pg_replication_slots WHERE slot_name = 'zoo_walex'"
        )
        return int(confirmed), bool(all_of_it)


class TestTimelines:
    """Two sessions on two servers; one was promoted while the other streamed."""

    @pytest.fixture
    def stale(self) -> CheckpointWriter:
        """The session on the older timeline, with a finished transaction."""
        writer = self._writer(timeline=1)
        self._advance(writer, 200)
        return writer

    @pytest.mark.parametrize(
        ("fork", "done"), [(150, 149), (200, 199), (201, 200), (300, 200)]
    )
    def test_newer_timeline_resumes_no_later_than_the_fork(
        self, stale: CheckpointWriter, fork: int, done: int
    ) -> None:
        newer = self._writer(timeline=2, forks={1: Lsn(fork)})
        assert stale.done == 200
        assert newer.done == done

    @pytest.mark.parametrize("fork", [150, 300])
    def test_older_timeline_cannot_advance(
        self, stale: CheckpointWriter, fork: int
    ) -> None:
        newer = self._writer(timeline=2, forks={1: Lsn(fork)})
        with pytest.raises(SlotInUse, match="taken over the slot"):
            stale.advance(Lsn(310))
        self._advance(newer, 320)
        with pytest.raises(SlotInUse, match="taken over the slot"):
            stale.advance(Lsn(330))
        row = Checkpoint.objects.get()
        assert (row.timeline, row.position) == (2, 320)

    def test_older_timeline_cannot_advance_from_the_same_position(
        self, stale: CheckpointWriter
    ) -> None:
        newer = self._writer(timeline=2, forks={1: Lsn(150)})
        self._advance(newer, stale.done)
        with pytest.raises(SlotInUse, match="taken over the slot"):
            stale.advance(Lsn(310))

    def test_end_of_the_older_session_leaves_the_row_unchanged(
        self, stale: CheckpointWriter
    ) -> None:
        self._writer(timeline=2, forks={1: Lsn(150)})
        stale.close(Lsn(210))
        row = Checkpoint.objects.get()
        assert (row.timeline, row.position, row.confirmed) == (2, 149, None)

    def _writer(self, **place: Any) -> CheckpointWriter:
        where = {"system": SYSTEM, "forks": {}, "statistics_since": None, **place}
        return CheckpointWriter(
            get_config("default"), SlotPlace(**where), slot_at(start=100)
        )

    def _advance(self, writer: CheckpointWriter, position: int) -> None:
        writer.advance(Lsn(position))
        writer.done = Lsn(position)


class TestBeyondTheWal:
    """A slot that was read beyond the end of the server's WAL."""

    @pytest.fixture
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that was stored on timeline 1."""
        config: StreamConfig = get_config("default")
        Checkpoint.objects.create(
            system_identifier=SYSTEM,
            slot_name=config.slot_name,
            stream=config.name,
            timeline=1,
            position=500,
        )
        found = checkpoints.find(SYSTEM, config.slot_name)
        assert found
        return found

    def test_restored_server_is_refused(self, checkpoint: Checkpoint) -> None:
        with pytest.raises(
            SlotBroken, match="the server was restored to an earlier state"
        ) as raised:
            self._require(checkpoint)
        assert f"up to {Lsn(500)}, but" in raised.value.reason
        assert f"ends at {Lsn(400)}:" in raised.value.reason
        assert f"continue from {Lsn(300)}, run: " in raised.value.hint
        assert raised.value.hint.endswith("--recreate-slot")

    @pytest.mark.parametrize("timeline", [1, 2])
    def test_listener_waits_for_a_standby(
        self, checkpoint: Checkpoint, timeline: int
    ) -> None:
        with pytest.raises(SlotWaiting, match="this standby has only replayed"):
            self._require(checkpoint, timeline=timeline, standby=True)

    def test_promoted_server_is_accepted(self, checkpoint: Checkpoint) -> None:
        self._require(checkpoint, timeline=2)

    def test_position_at_the_end_of_the_wal_is_accepted(
        self, checkpoint: Checkpoint
    ) -> None:
        for standby in (False, True):
            self._require(checkpoint, log_end=Lsn(500), standby=standby)

    def _require(self, checkpoint: Checkpoint, **server: Any) -> None:
        found = {"timeline": 1, "log_end": Lsn(400), **server}
        checkpoints.require_unbroken(
            checkpoint, slot_at(start=300), statistics=None, **found
        )
