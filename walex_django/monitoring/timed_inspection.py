"""How streams are, within some seconds, whatever becomes of their servers."""

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
"""Seconds to wait for an answer."""

_ABANDONED = 60.0  # seconds after which an inspection without an end is made again

_Configs: TypeAlias = tuple[StreamConfig, ...]
_Key: TypeAlias = tuple[_Configs, bool]


def inspect_all(
    configs: Iterable[StreamConfig],
    *,
    seconds: float = TIMEOUT,
    diagnose: bool = True,
) -> Overview:
    """
    Ask how streams are, all servers at the same time.

    Those that do not tell in time are `StreamState.UNREACHABLE`. Whoever asks the same
    while somebody else waits for it gets the same answer, so that a server that fell
    silent does not cost a thread for each that asks.

    Args:
        configs: of the streams.
        seconds: to wait at most.
        diagnose: see `inspection.inspect_all`.
    """
    configs = list(configs)
    places: dict[tuple[str, str | None], list[StreamConfig]] = {}
    for config in configs:
        places.setdefault((config.database, config.url), []).append(config)
    deadline = time.monotonic() + seconds
    inspections = [_begin(tuple(group), diagnose) for group in places.values()]
    overviews = [
        each.answer(deadline - time.monotonic()) or each.no_answer(seconds)
        for each in inspections
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
    """`inspection.inspect_all` in a thread of its own, which nobody need wait for."""

    def __init__(self, configs: _Configs, diagnose: bool) -> None:
        self._configs = configs
        self._diagnose = diagnose
        self._begun = time.monotonic()
        self._ended = Event()
        self._overview: Overview | None = None
        self._error: Exception | None = None
        Thread(target=self._run, name="walex-inspection", daemon=True).start()

    def may_be_shared(self) -> bool:
        """Return whether its answer is still to come."""
        waited = time.monotonic() - self._begun
        return not self._ended.is_set() and waited < _ABANDONED

    def answer(self, seconds: float) -> Overview | None:
        """Return what was told, or `None` if it takes longer than that."""
        self._ended.wait(max(seconds, 0))
        if self._error:
            raise self._error
        return self._overview

    def no_answer(self, seconds: float) -> Overview:
        """Return what is said of streams whose server or database fell silent."""
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
        except Exception as error:  # noqa: BLE001 - whoever asks gets it
            self._error = error
        finally:
            # They are of this thread.
            connections.close_all()
            self._ended.set()


_inspections: dict[_Key, _Inspection] = {}
_lock = Lock()


def _begin(configs: _Configs, diagnose: bool) -> _Inspection:
    asked = configs, diagnose
    with _lock:
        running = _inspections.get(asked)
        if running is None or not running.may_be_shared():
            for key in [k for k, v in _inspections.items() if not v.may_be_shared()]:
                del _inspections[key]
            running = _inspections[asked] = _Inspection(configs, diagnose)
        return running
