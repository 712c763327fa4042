"""The state and the counters of one listener, for the reporter and metrics."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from threading import Event

from django.utils import timezone

from walex_django.conf.stream import StreamConfig
from walex_django.delivery.counts import Counts
from walex_django.models import READS, ListenerState
from walex_django.replication.stream import ReplicationConnection


class Report:
    """
    The state and the counters of one listener.

    Args:
        config: The configuration of its stream.

    Attributes:
        counts: What the listener has delivered.
        hold: Set when the listener has to pause after the current transaction.
        state: The listener's state.
        reason: Why it is in this state.
        since: Since when it has been in this state.
        backend_pid: The PID of the walsender that it reads from.
        has_reporter: Whether a `Reporter` writes the report.
        problem: A problem of a listener that nevertheless reads on.
        described: Whether the stream has described a table since the publications
            were last checked.
        wake: Called after a change of state, to have it written.
        connection: The connection that the listener reads from, while it streams.
        unsaved: Whether the state has changed since the report was last written.
        saved: Set while the report is written, with its current state.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.id = uuid.uuid4()
        self.counts = Counts()
        self.hold = Event()
        self.state: ListenerState | None = None
        self.reason = ""
        self.since = timezone.now()
        self.backend_pid: int | None = None
        self.has_reporter = False
        self.connection: ReplicationConnection | None = None
        self.problem = ""
        self.described = False
        self.wake: Callable[[], object] = lambda: None
        self.unsaved = False
        self.saved = Event()

    def set_state(
        self, state: ListenerState, reason: str = "", *, backend_pid: int | None = None
    ) -> None:
        """
        Set the listener's state, and have it written if anything has changed.

        Args:
            state: The new state.
            reason: Why the listener is in this state, unless it is running normally.
            backend_pid: The PID of the walsender that it reads from.
        """
        new = (state, reason, backend_pid)
        if new == (self.state, self.reason, self.backend_pid):
            return
        if state != self.state:
            self.since = timezone.now()
        self.state, self.reason, self.backend_pid = new
        if state not in READS:
            self.problem = ""
        self.unsaved = True
        self.saved.clear()
        self.wake()

    def close(self, timeout: float) -> None:
        """
        Report that the listener has stopped, and wait until that is written.

        Args:
            timeout: The maximum number of seconds to wait.
        """
        self.set_state(ListenerState.STOPPED)
        if self.has_reporter:
            self.saved.wait(timeout)

    def note_description(self) -> None:
        """Have the publications checked soon: the stream has described a table."""
        self.described = True
