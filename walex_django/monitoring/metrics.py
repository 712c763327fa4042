"""Metrics for Prometheus. Needs the extra ``prometheus``."""

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
from .report import Report
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
    A metric family.

    Attributes:
        name: The name used in queries; that of a counter ends in ``_total``.
        help: The help text.
        labels: The names of its labels.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ("stream",)

    def metric(self) -> Metric:
        """Return the family without samples, for the Prometheus client."""
        if self.name.endswith("_total"):
            return CounterMetricFamily(self.name, self.help, labels=self.labels)
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)


Sample: TypeAlias = tuple[Family, tuple[str, ...], float | None]
"""A family, the values of its labels, and a value; `None` if unknown."""

UP = Family(
    "walex_up",
    "1 if the stream's server and the tables of walex_django could be queried.",
)
STREAM_STATE = Family(
    "walex_stream_state",
    "1 for the stream's current state, 0 for the others.",
    ("stream", "state"),
)
LAG_BYTES = Family("walex_lag_bytes", "WAL that has not been processed, in bytes.")
LAG_SECONDS = Family(
    "walex_lag_seconds", "Longest time that a change may have been waiting."
)
RETAINED_BYTES = Family(
    "walex_retained_bytes", "WAL that the server retains for the slot, in bytes."
)
SAFE_WAL_BYTES = Family(
    "walex_safe_wal_bytes",
    "WAL that may be written before the slot is lost; absent without a limit.",
)
SLOT_ACTIVE = Family("walex_slot_active", "1 if the slot has a reader.")
SLOT_LOST = Family("walex_slot_lost", "1 if the slot can no longer be read.")
LISTENERS = Family(
    "walex_listeners",
    "Listeners, by the state they last reported.",
    ("stream", "state"),
)
PARKED_CALLS = Family("walex_parked_calls", "Parked receiver calls.")
FAILING_RECEIVERS = Family(
    "walex_failing_receivers",
    "Receivers that are being retried or whose circuit breaker is open, as last"
    " reported.",
)
PROBLEMS = Family(
    "walex_problems",
    "Problems with the stream's settings and its server, without notes.",
)
REPORTED_EVENTS = Family(
    "walex_reported_events_total",
    "Events delivered by the current listener, as last reported.",
)
REPORTED_TRANSACTIONS = Family(
    "walex_reported_transactions_total",
    "Transactions delivered by the current listener, as last reported.",
)
REPORTED_FAILURES = Family(
    "walex_reported_failures_total",
    "Receiver calls that failed after all retries, as last reported.",
)
REPORTED_LAST_EVENT = Family(
    "walex_reported_last_event_timestamp_seconds",
    "Commit time of the last event that was delivered, as last reported.",
)
ORPHANED_BYTES = Family(
    "walex_orphaned_slot_retained_bytes",
    "WAL retained for a slot that belongs to no stream and has no reader, in bytes.",
    ("server", "slot"),
)

STATUS_FAMILIES = (
    *(UP, STREAM_STATE, LAG_BYTES, LAG_SECONDS, RETAINED_BYTES, SAFE_WAL_BYTES),
    *(SLOT_ACTIVE, SLOT_LOST, LISTENERS, PARKED_CALLS, FAILING_RECEIVERS, PROBLEMS),
    REPORTED_EVENTS,
    *(REPORTED_TRANSACTIONS, REPORTED_FAILURES, REPORTED_LAST_EVENT, ORPHANED_BYTES),
)
"""The families that the view exposes."""

EVENTS = Family(
    "walex_events_total",
    "Events delivered since the listener started.",
    ("stream", "table", "type"),
)
TRANSACTIONS = Family(
    "walex_transactions_total",
    "Transactions delivered since the listener started.",
)
RECEIVER_RETRIES = Family(
    "walex_receiver_retries_total",
    "Receiver calls that were retried.",
    ("stream", "receiver"),
)
RECEIVER_FAILURES = Family(
    "walex_receiver_failures_total",
    "Receiver calls that failed after all retries.",
    ("stream", "receiver"),
)
RECEIVER_BREAKER = Family(
    "walex_receiver_breaker_open",
    "1 if the receiver's circuit breaker is open, 0 while it is being retried.",
    ("stream", "receiver"),
)
LISTENER_STATE = Family(
    "walex_listener_state",
    "1 for the listener's current state, 0 for the others.",
    ("stream", "state"),
)
LISTENER_PROBLEM = Family(
    "walex_listener_problem",
    "1 if the listener reads its slot and nevertheless reports a problem.",
)
LISTENER_DELIVERING = Family(
    "walex_listener_delivering_seconds",
    "Age of the transaction that is being delivered, 0 if there is none.",
)
LISTENER_LAST_EVENT = Family(
    "walex_listener_last_event_timestamp_seconds",
    "Commit time of the last event that was delivered.",
)

LISTENER_FAMILIES = (
    *(EVENTS, TRANSACTIONS, RECEIVER_RETRIES, RECEIVER_FAILURES, RECEIVER_BREAKER),
    *(LISTENER_STATE, LISTENER_PROBLEM, LISTENER_DELIVERING, LISTENER_LAST_EVENT),
)
"""The families that a listener exposes."""


class StatusCollector(Collector):
    """
    Collects the status of streams, by an inspection at each scrape.

    Args:
        configs: The streams' configurations.
    """

    def __init__(self, configs: Iterable[StreamConfig]) -> None:
        self._configs = list(configs)

    def collect(self) -> Iterator[Metric]:  # noqa: D102
        overview = timed_inspection.inspect_all(self._configs)
        samples = [
            sample for stream in overview.streams for sample in _stream_samples(stream)
        ]
        samples += [_orphan_sample(slot) for slot in overview.others if slot.orphaned]
        return _metrics(STATUS_FAMILIES, samples)


class ListenerCollector(Collector):
    """
    Collects the counters of this process's listeners.

    Args:
        reports: The listeners' reports.
    """

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:  # noqa: D102
        samples = [
            sample for report in self._reports for sample in _listener_samples(report)
        ]
        return _metrics(LISTENER_FAMILIES, samples)


def exposition(collector: Collector, accept: str) -> tuple[bytes, str]:
    """
    Return metrics as text, and the content type of that text.

    Args:
        collector: The collector of the metrics.
        accept: The value of the request's ``Accept`` header.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


@contextmanager
def served(reports: Sequence[Report], *, address: str, port: int) -> Iterator[int]:
    """
    Serve the counters of listeners over HTTP inside the ``with`` block.

    Args:
        reports: The listeners' reports.
        address: The address to bind to.
        port: The TCP port; 0 for any free port.

    Yields:
        The port.

    Raises:
        OSError: The port is taken, or the address does not belong to this machine.
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


def _stream_samples(stream: StreamStatus) -> Iterator[Sample]:
    slot, records, report = stream.slot, stream.records, stream.report
    reachable = stream.state != StreamState.UNREACHABLE
    reported = [report.state for report in records.reports]
    name = (stream.config.name,)
    yield UP, name, reachable and not records.problems
    for state in StreamState:
        yield STREAM_STATE, (*name, state.value), stream.state == state
    for listener_state in ListenerState:
        labels = *name, listener_state.value
        yield LISTENERS, labels, reported.count(listener_state.value)
    yield PARKED_CALLS, name, records.parked
    yield FAILING_RECEIVERS, name, len(stream.failing)
    if reachable:
        problems = [p for p in stream.problems if not p.id.startswith("I")]
        yield PROBLEMS, name, len(problems)
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


def _orphan_sample(other: OtherSlot) -> Sample:
    return ORPHANED_BYTES, (str(other.system), other.slot.name), other.slot.retained


def _listener_samples(report: Report) -> Iterator[Sample]:
    counts, name = report.counts, (report.config.name,)
    # Copied in one step, because another thread adds to these dicts.
    for (table, type), number in counts.events.copy().items():
        yield EVENTS, (*name, str(table), type.value), number
    for receiver, number in counts.retries.copy().items():
        yield RECEIVER_RETRIES, (*name, receiver), number
    for receiver, number in counts.failures.copy().items():
        yield RECEIVER_FAILURES, (*name, receiver), number
    breakers: dict[str, bool] = {}
    for failing in counts.failing_now():
        # The same receiver may be connected to several signals.
        is_open = failing.is_open or breakers.get(failing.receiver, False)
        breakers[failing.receiver] = is_open
    for receiver, is_open in breakers.items():
        yield RECEIVER_BREAKER, (*name, receiver), is_open
    yield TRANSACTIONS, name, counts.transactions
    for state in ListenerState:
        yield LISTENER_STATE, (*name, state.value), report.state == state
    yield LISTENER_PROBLEM, name, bool(report.problem)
    last, delivering = counts.last, counts.delivering
    age = datetime.now(UTC) - delivering.timestamp if delivering else None
    yield LISTENER_DELIVERING, name, age.total_seconds() if age else 0
    if last:
        yield LISTENER_LAST_EVENT, name, last.timestamp.timestamp()
