"""The receivers that fail, according to a listener's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from walex_django.models import ListenerReport


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingReceiver:
    """
    A receiver that is being retried or whose circuit breaker is open.

    Attributes:
        receiver: Its dotted name.
        signal: The signal's name.
        since: The time of its first failure since it last succeeded.
        event_id: The id of the event, or the LSN of the message, of the last failure.
        attempts: The number of attempts of that call.
        failed_calls: The number of consecutive calls that failed after all retries.
        breaker_open: Whether its circuit breaker is open.
    """

    receiver: str
    signal: str
    since: datetime
    event_id: str
    attempts: int
    failed_calls: int
    breaker_open: bool

    def __str__(self) -> str:
        count = self.failed_calls if self.breaker_open else self.attempts
        s = "s" * (count != 1)
        if self.breaker_open:
            return (
                f"{self.receiver} ({self.signal}): {count} call{s} failed in a row,"
                f" the last one at {self.event_id}; each call is tried once"
            )
        return (
            f"{self.receiver} ({self.signal}): retrying at {self.event_id} after"
            f" {count} attempt{s}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the values for Django's JSON encoder."""
        return asdict(self)


def failing_of(report: ListenerReport) -> list[FailingReceiver]:
    """Return the receivers that fail according to a listener's report."""
    return [
        FailingReceiver(**{**data, "since": datetime.fromisoformat(data["since"])})
        for data in report.failing
    ]
