"""What Prometheus is told. Needs the extra ``prometheus``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from django.core.exceptions import ImproperlyConfigured

from walex_django.conf.stream import StreamConfig
from walex_django.models import ListenerState

from . import timed_inspection
from .reporter import Report
from .status import OtherSlot, StreamState, StreamStatus

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImproperlyConfigured(
        "Metrics need prometheus_client."
        ' Run: python -m pip install "walex_django[prometheus]"'
    ) from error

Metric: TypeAlias = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, slots=True)
class Family:
    """
    A metric, by its name in queries.

    Attributes:
        name: ends in ``_total`` where it is a counter.
        help: what it tells.
        labels: names of them.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ("stream",)

    def metric(self) -> Metric:
        """Return one without samples."""
        if self.name.endswith("_total"):
            return CounterMetricFamily(self.name, self.help, labels=self.labels)
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)


Sample: TypeAlias = tuple[Family, tuple[str, ...], float | None]
"""Family, values of its labels, and a value; none where it is not known."""

UP = Family("walex_up", "Whether the stream's server and tables could be asked.")
STREAM_STATE = Family(
    "walex_stream_state",
    "1 for the state that the stream is in, 0 for the others.",
    ("stream", "state"),
)
LAG_BYTES = Family("walex_lag_bytes", "Log that is not done, in bytes.")
LAG_SECONDS = Family(
    "walex_lag_seconds", "How long the oldest change may wait that is not done."
)
RETAINED_BYTES = Family(
    "walex_retained_bytes", "Log that the server keeps for the slot, in bytes."
)
SAFE_WAL_BYTES = Family(
    "walex_safe_wal_bytes",
    "Log that may be written until the slot is lost; absent without a limit.",
)
SLOT_ACTIVE = Family("walex_slot_active", "Whether somebody reads from the slot.")
SLOT_LOST = Family("walex_slot_lost", "Whether the slot can be read no more.")
LISTENERS = Family(
    "walex_listeners",
    "Listeners that have reported, by what they said last.",
    ("stream", "state"),
)
PARKED_CALLS = Family("walex_parked_calls", "Calls of receivers that are parked.")
PROBLEMS = Family(
    "walex_problems",
    "What is wrong between the stream's settings and its server, without notes.",
)
REPORTED_EVENTS = Family(
    "walex_reported_events_total",
    "Events delivered by the listener that reads, as it reported last.",
)
REPORTED_TRANSACTIONS = Family(
    "walex_reported_transactions_total",
    "Transactions delivered by the listener that reads, as it reported last.",
)
REPORTED_FAILURES = Family(
    "walex_reported_failures_total",
    "Calls given up by the listener that reads, as it reported last.",
)
REPORTED_LAST_EVENT = Family(
    "walex_reported_last_event_timestamp_seconds",
    "When the last event was committed that was reported to be delivered.",
)
ORPHANED_BYTES = Family(
    "walex_orphaned_slot_retained_bytes",
    "Log that a stream's server keeps for a slot that is no stream's and unread.",
    ("server", "slot"),
)

OF_STATUS = (
    *(UP, STREAM_STATE, LAG_BYTES, LAG_SECONDS, RETAINED_BYTES, SAFE_WAL_BYTES),
    *(SLOT_ACTIVE, SLOT_LOST, LISTENERS, PARKED_CALLS, PROBLEMS, REPORTED_EVENTS),
    *(REPORTED_TRANSACTIONS, REPORTED_FAILURES, REPORTED_LAST_EVENT, ORPHANED_BYTES),
)
"""What the view tells."""

EVENTS = Family(
    "walex_events_total",
    "Events delivered since the listener's start.",
    ("stream", "table", "type"),
)
TRANSACTIONS = Family(
    "walex_transactions_total",
    "Transactions of which something was delivered since the listener's start.",
)
RECEIVER_RETRIES = Family(
    "walex_receiver_retries_total",
    "Calls of a receiver that were made again.",
    ("stream", "receiver"),
)
RECEIVER_FAILURES = Family(
    "walex_receiver_failures_total",
    "Calls of a receiver that failed in spite of all retries.",
    ("stream", "receiver"),
)
LISTENER_STATE = Family(
    "walex_listener_state",
    "1 for what the listener does, 0 for the other states.",
    ("stream", "state"),
)
LISTENER_IN_HAND = Family(
    "walex_listener_in_hand_seconds",
    "Age of the transaction that is being delivered, 0 without one.",
)
LISTENER_LAST_EVENT = Family(
    "walex_listener_last_event_timestamp_seconds",
    "When the last event was committed that was delivered, or is being.",
)

OF_LISTENER = (
    *(EVENTS, TRANSACTIONS, RECEIVER_RETRIES, RECEIVER_FAILURES, LISTENER_STATE),
    *(LISTENER_IN_HAND, LISTENER_LAST_EVENT),
)
"""What a listener tells."""


class StatusCollector(Collector):
    """
    What servers and reports tell; asked at each scrape.

    Args:
        configs: of the streams.
    """

    def __init__(self, configs: Iterable[StreamConfig]) -> None:
        self._configs = list(configs)

    def collect(self) -> Iterator[Metric]:  # noqa: D102
        overview = timed_inspection.inspect_all(self._configs)
        samples = [each for stream in overview.streams for each in _of_stream(stream)]
        samples += [_of_orphan(each) for each in overview.others if each.orphaned]
        return _metrics(OF_STATUS, samples)


class ListenerCollector(Collector):
    """
    What the listeners of this process count.

    Args:
        reports: of them.
    """

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:  # noqa: D102
        samples = [each for report in self._reports for each in _of_report(report)]
        return _metrics(OF_LISTENER, samples)


def exposition(collector: Collector, accept: str) -> tuple[bytes, str]:
    """
    Return metrics as text, and its content type.

    Args:
        collector: of the metrics.
        accept: of the request's headers.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


@contextmanager
def served(reports: Sequence[Report], *, address: str, port: int) -> Iterator[int]:
    """
    Serve what listeners count while the ``with`` block lasts; yields the port.

    Args:
        reports: of the listeners.
        address: to be reached at.
        port: of TCP; 0 lets the system choose.

    Raises:
        OSError: it is taken, or the address is not ours.
    """
    registry = CollectorRegistry()
    registry.register(ListenerCollector(reports))
    ProcessCollector(registry=registry)
    server, thread = start_http_server(port, address, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _metrics(families: Iterable[Family], samples: Iterable[Sample]) -> Iterator[Metric]:
    metrics = {family: family.metric() for family in families}
    for family, labels, value in samples:
        if value is not None:
            metrics[family].add_metric(labels, value)
    return iter(metrics.values())


def _of_stream(stream: StreamStatus) -> Iterator[Sample]:
    slot, account, report = stream.slot, stream.account, stream.report
    reachable = stream.state != StreamState.UNREACHABLE
    said = [each.state for each in account.reports]
    name = (stream.config.name,)
    yield UP, name, reachable and not account.problems
    for state in StreamState:
        yield STREAM_STATE, (*name, state.value), stream.state == state
    for each in ListenerState:
        yield LISTENERS, (*name, each.value), said.count(each.value)
    yield PARKED_CALLS, name, account.parked
    if reachable:
        wrong = [each for each in stream.problems if not each.id.startswith("I")]
        yield PROBLEMS, name, len(wrong)
        yield SLOT_ACTIVE, name, bool(slot and slot.active_pid is not None)
        yield SLOT_LOST, name, bool(slot and slot.lost)
    if stream.age is not None:
        yield LAG_SECONDS, name, stream.age.total_seconds()
    if slot:
        yield LAG_BYTES, name, slot.lag
        yield RETAINED_BYTES, name, slot.retained
        yield SAFE_WAL_BYTES, name, slot.safe_wal_size
    if report:
        yield REPORTED_EVENTS, name, report.events
        yield REPORTED_TRANSACTIONS, name, report.transactions
        yield REPORTED_FAILURES, name, report.failures
        if at := report.last_event_at:
            yield REPORTED_LAST_EVENT, name, at.timestamp()


def _of_orphan(other: OtherSlot) -> Sample:
    return ORPHANED_BYTES, (str(other.system), other.slot.name), other.slot.retained


def _of_report(report: Report) -> Iterator[Sample]:
    counts, name = report.counts, (report.config.name,)
    # Of copies, made in one step, for another thread adds to them.
    for (table, type), number in counts.events.copy().items():
        yield EVENTS, (*name, str(table), type.value), number
    for receiver, number in counts.retries.copy().items():
        yield RECEIVER_RETRIES, (*name, receiver), number
    for receiver, number in counts.failures.copy().items():
        yield RECEIVER_FAILURES, (*name, receiver), number
    yield TRANSACTIONS, name, counts.transactions
    for state in ListenerState:
        yield LISTENER_STATE, (*name, state.value), report.state == state
    last, delivering = counts.last, counts.delivering
    waited = datetime.now(UTC) - delivering.timestamp if delivering else None
    yield LISTENER_IN_HAND, name, waited.total_seconds() if waited else 0
    if last:
        yield LISTENER_LAST_EVENT, name, last.timestamp.timestamp()
