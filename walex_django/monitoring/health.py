"""Whether streams do what they should, for probes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from .status import StreamState, StreamStatus

_WELL = {StreamState.RUNNING, StreamState.PAUSED}


def failures(
    stream: StreamStatus,
    *,
    max_lag: int | None = None,
    max_age: timedelta | None = None,
) -> list[str]:
    """
    Return why a stream does not do what it should; nothing where it does.

    What is said is for everybody: states and numbers, and nothing of servers.
    Who has paused a stream has wanted it so; then only the limits count.

    Args:
        stream: as `timed_inspection.inspect_all` found it.
        max_lag: bytes of log that may be not done.
        max_age: how long a change may wait.
    """
    if stream.state not in _WELL:
        return [f"state is {stream.state.value}"]
    return [
        *_lag_failures(stream, max_lag),
        *_age_failures(stream, max_age),
    ]


def _lag_failures(stream: StreamStatus, most: int | None) -> Iterable[str]:
    lag = stream.slot.lag if stream.slot else None
    if most is None:
        return
    if lag is None:
        yield "lag is not known"
    elif lag > most:
        yield f"lag is {lag} bytes, more than {most}"


def _age_failures(stream: StreamStatus, most: timedelta | None) -> Iterable[str]:
    if most is None:
        return
    if stream.age is None:
        yield "age is not known"
    elif stream.age > most:
        seconds = stream.age.total_seconds()
        yield f"age is {seconds:.0f} s, more than {most.total_seconds():.0f}"


def verdict(
    streams: Iterable[StreamStatus],
    *,
    max_lag: int | None = None,
    max_age: timedelta | None = None,
) -> dict[str, Any]:
    """
    Return what the health view and ``walex_status --check --json`` say.

    Args:
        streams, max_lag, max_age: see `failures`.
    """
    told = {
        stream.config.name: failures(stream, max_lag=max_lag, max_age=max_age)
        for stream in streams
    }
    return {"status": "failing" if any(told.values()) else "ok", "streams": told}
