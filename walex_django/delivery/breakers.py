"""Circuit breakers: receivers that keep failing are not retried for each event."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

from walex_django import log
from walex_django.conf.stream import OnError

logger = log.logger(__name__)

Key: TypeAlias = tuple[str, object]
"""The name of a signal, and the `receiver_key` of a receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """
    A receiver whose last attempt failed.

    Attributes:
        receiver: The receiver's dotted name.
        signal: The signal's name.
        since: The time of its first failure since it last succeeded.
        event_id: The id of the event, or the LSN of the message, of the last failure.
        attempts: The number of attempts of that call.
        failed_calls: The number of consecutive calls that failed after all retries.
        is_retried: Whether the call is being retried.
        is_open: Whether the circuit breaker is open: calls are tried only once.
    """

    receiver: str
    signal: str
    since: datetime
    event_id: str = ""
    attempts: int = 0
    failed_calls: int = 0
    is_retried: bool = False
    is_open: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "receiver": self.receiver,
            "signal": self.signal,
            "since": self.since.isoformat(),
            "event_id": self.event_id,
            "attempts": self.attempts,
            "failed_calls": self.failed_calls,
            "breaker_open": self.is_open,
        }


class Breakers:
    """
    The circuit breakers of one listener's receivers.

    Only the delivering thread calls its methods; other threads may read ``failing``.

    Attributes:
        failing: The receivers whose last attempt failed. Empty as long as all is well.
    """

    __slots__ = ("failing",)

    def __init__(self, failing: MutableMapping[Key, Failing]) -> None:
        self.failing = failing

    def is_open(self, key: Key, threshold: int) -> bool:
        """Return whether the calls of a receiver are tried only once."""
        failing = self.failing.get(key)
        return failing is not None and 0 < threshold <= failing.failed_calls

    def note_attempt(self, key: Key, name: str, event_id: str, attempts: int) -> None:
        """
        Record that a call failed and will be retried.

        Args:
            key: The key of the receiver.
            name: Its dotted name.
            event_id: The id of the event, or the LSN of the message.
            attempts: The number of attempts so far.
        """
        self.failing[key] = replace(
            self._get(key, name),
            event_id=event_id,
            attempts=attempts,
            is_retried=True,
        )

    def note_failure(
        self,
        key: Key,
        name: str,
        event_id: str,
        attempts: int,
        *,
        threshold: int,
        on_error: OnError,
    ) -> None:
        """
        Record that a call failed after all retries; open the breaker, with one report.

        Args:
            key: See `note_attempt`.
            name: See `note_attempt`.
            event_id: See `note_attempt`.
            attempts: The number of attempts.
            threshold: The stream's ``BREAKER_THRESHOLD``.
            on_error: The stream's ``ON_ERROR``.
        """
        failing = self._get(key, name)
        failed_calls = failing.failed_calls + 1
        is_open = 0 < threshold <= failed_calls
        self.failing[key] = replace(
            failing,
            event_id=event_id,
            attempts=attempts,
            failed_calls=failed_calls,
            is_retried=False,
            is_open=is_open,
        )
        if is_open and not failing.is_open:
            logger.error(
                "%s failed for %d calls in a row. Until a call succeeds, its calls are"
                " %s after one attempt. See: python manage.py walex_status",
                *(name, failed_calls, "skipped" if on_error == "skip" else "parked"),
                extra={"receiver": name, "event_id": event_id},
            )

    def note_success(self, key: Key) -> None:
        """Record that a call succeeded; close the breaker of its receiver."""
        failing = self.failing.pop(key, None)
        if failing and failing.is_open:
            logger.info(
                "%s succeeded after %d failed calls in a row. Its calls are retried"
                " again.",
                *(failing.receiver, failing.failed_calls),
                extra={"receiver": failing.receiver},
            )

    def _get(self, key: Key, name: str) -> Failing:
        return self.failing.get(key) or Failing(
            receiver=name, signal=key[0], since=datetime.now(UTC)
        )
