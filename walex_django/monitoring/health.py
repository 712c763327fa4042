"""Health checks of streams, for probes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from .status import StreamState, StreamStatus

_HEALTHY = {StreamState.RUNNING, StreamState.PAUSED}


def failures(
    stream: StreamStatus,
    *,
    max_lag: int | None = None,
    max_age: timedelta | None = None,
    max_parked: int | None = None,
) -> list[str]:
    """
    Return the reasons why a stream is unhealthy, or an empty list if it is healthy.

    The reasons may be shown to anyone: they contain states and numbers, and nothing
    about servers. A paused stream is healthy unless it exceeds a limit.

    Args:
        stream: The stream's status, from `timed_inspection.inspect_all`.
        max_lag: The maximum of unprocessed WAL, in bytes.
        max_age: The maximum time that a change may have been waiting.
        max_parked: The maximum number of parked receiver calls.
    """
    if stream.state not in _HEALTHY:
        return [f"state is {stream.state.value}"]
    return [
        *(["the listener reports a problem"] if stream.listener_problem else []),
        *_lag_failures(stream, max_lag),
        *_age_failures(stream, max_age),
        *_receiver_failures(stream),
        *_parked_failures(stream, max_parked),
    ]


def _lag_failures(stream: StreamStatus, limit: int | None) -> Iterable[str]:
    lag = stream.slot.lag if stream.slot else None
    if limit is None:
        return
    if lag is None:
        yield "lag is unknown"
    elif lag > limit:
        yield f"lag is {lag} bytes, more than {limit}"


def _age_failures(stream: StreamStatus, limit: timedelta | None) -> Iterable[str]:
    if limit is None:
        return
    if stream.age is None:
        yield "age is unknown"
    elif stream.age > limit:
        seconds = stream.age.total_seconds()
        yield f"age is {seconds:.0f} s, more than {limit.total_seconds():.0f}"


def _receiver_failures(stream: StreamStatus) -> Iterable[str]:
    # A running stream is in a state of its own then, and a paused one is not.
    if count := len(stream.failing):
        yield f"{count} receiver{'s are' if count > 1 else ' is'} failing"


def _parked_failures(stream: StreamStatus, limit: int | None) -> Iterable[str]:
    if limit is None:
        return
    parked = stream.records.parked
    if parked is None:
        yield "the number of parked calls is unknown"
    elif parked > limit:
        yield f"parked calls: {parked}, more than {limit}"


def verdict(
    streams: Iterable[StreamStatus],
    *,
    max_lag: int | None = None,
    max_age: timedelta | None = None,
    max_parked: int | None = None,
) -> dict[str, Any]:
    """
    Return the response of the health view and of ``walex_status --check --json``.

    Args:
        streams: The streams' statuses.
        max_lag: See `failures`.
        max_age: See `failures`.
        max_parked: See `failures`.
    """
    results = {
        stream.config.name: failures(
            stream, max_lag=max_lag, max_age=max_age, max_parked=max_parked
        )
        for stream in streams
    }
    return {"status": "failing" if any(results.values()) else "ok", "streams": results}
