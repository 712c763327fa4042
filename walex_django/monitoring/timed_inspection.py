"""Inspection of streams with a timeout, even if their servers do not answer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event, Lock, Thread
from typing import TypeAlias

from django.db import connections

from walex_django.conf.stream import StreamConfig

from . import inspection
from .status import Overview, StreamState, StreamStatus

TIMEOUT = 5.0
"""The default time to wait, in seconds."""

_MAX_SHARED_AGE = 60.0  # seconds after which a hanging inspection is no longer shared

_Configs: TypeAlias = tuple[StreamConfig, ...]
_Key: TypeAlias = tuple[_Configs, bool]


def inspect_all(
    configs: Iterable[StreamConfig],
    *,
    seconds: float = TIMEOUT,
    diagnose: bool = True,
) -> Overview:
    """
    Return the status of streams, querying all servers concurrently.

    Streams whose server does not answer in time are `StreamState.UNREACHABLE`. Callers
    share an inspection that is already running, so an unresponsive server does not
    occupy one thread per caller.

    Args:
        configs: The streams' configurations.
        seconds: The maximum time to wait.
        diagnose: See `inspection.inspect_all`.
    """
    configs = list(configs)
    places: dict[tuple[str, str | None], list[StreamConfig]] = {}
    for config in configs:
        places.setdefault((config.database, config.url), []).append(config)
    deadline = time.monotonic() + seconds
    inspections = [_start(tuple(group), diagnose) for group in places.values()]
    overviews = [
        running.wait(deadline - time.monotonic()) or running.timed_out(seconds)
        for running in inspections
    ]
    streams = {
        stream.config.name: stream
        for overview in overviews
        for stream in overview.streams
    }
    others = {
        (other.system, other.slot.name): other
        for overview in overviews
        for other in overview.others
    }
    return Overview(
        streams=[streams[config.name] for config in configs],
        others=list(others.values()),
    )


class _Inspection:
    """A call of `inspection.inspect_all` in a thread of its own."""

    def __init__(self, configs: _Configs, diagnose: bool) -> None:
        self._configs = configs
        self._diagnose = diagnose
        self._started_at = time.monotonic()
        self._finished = Event()
        self._overview: Overview | None = None
        self._error: Exception | None = None
        Thread(target=self._run, name="walex-inspection", daemon=True).start()

    def is_shareable(self) -> bool:
        """Return whether another caller may wait for the result."""
        age = time.monotonic() - self._started_at
        return not self._finished.is_set() and age < _MAX_SHARED_AGE

    def wait(self, seconds: float) -> Overview | None:
        """Return the result, or `None` if it is not available in time."""
        self._finished.wait(max(seconds, 0))
        if self._error:
            raise self._error
        return self._overview

    def timed_out(self, seconds: float) -> Overview:
        """Return the overview to show if there is no result in time."""
        reason = f"No answer for {seconds:g} s."
        return Overview(
            streams=[
                StreamStatus(
                    config=config, state=StreamState.UNREACHABLE, reason=reason
                )
                for config in self._configs
            ],
            others=[],
        )

    def _run(self) -> None:
        try:
            self._overview = inspection.inspect_all(
                self._configs, diagnose=self._diagnose
            )
        except Exception as error:  # noqa: BLE001 - raised in the waiting threads
            self._error = error
        finally:
            # This thread has connections of its own.
            connections.close_all()
            self._finished.set()


_inspections: dict[_Key, _Inspection] = {}
_lock = Lock()


def _start(configs: _Configs, diagnose: bool) -> _Inspection:
    """Return a running inspection of these streams, or start one."""
    key = configs, diagnose
    with _lock:
        running = _inspections.get(key)
        if running is None or not running.is_shareable():
            for old in [k for k, v in _inspections.items() if not v.is_shareable()]:
                del _inspections[old]
            running = _inspections[key] = _Inspection(configs, diagnose)
        return running
