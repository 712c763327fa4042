"""The plots of the last hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from walex_django.admin import plot
from walex_django.models import StreamSample

NOW = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)  # 13:34 in Berlin


def sample(
    ago: float, *, events: int = 0, lag: int | None = None, seconds: float = 10
) -> StreamSample:
    return StreamSample(
        stream="default",
        at=NOW - timedelta(seconds=ago),
        seconds=seconds,
        events=events,
        transactions=1,
        lag=lag,
    )


def test_no_samples() -> None:
    rate, lag = plot.rate([], NOW), plot.lag([], NOW, None)

    assert (rate.line, rate.area) == ("M0 100V100H3600", "")
    assert rate.description == "None in the last hour."
    assert (lag.line, lag.dashed, lag.present) == ("", "", "")
    assert lag.description == "Unknown."


def test_rate_is_zero_between_samples() -> None:
    found = plot.rate([sample(1000, events=50), sample(500, events=100)], NOW)

    # 5 and 10 a second, of 10.
    assert found.line == "M0 100V100H2590V50.0H2600V100H3090V0.0H3100V100H3600"
    assert found.area == f"{found.line}V100H0Z"
    assert found.description == "Peak 10 at 13:26."


def test_consecutive_samples_form_one_line() -> None:
    found = plot.rate([sample(3000.5, events=50), sample(2990, events=100)], NOW)

    assert found.line == "M0 100V100H590V50.0H600V0.0H610V100H3600"


def test_rate_does_not_drop_to_zero_at_the_present() -> None:
    assert plot.rate([sample(5, events=10)], NOW).line.endswith("H3600")
    assert not plot.rate([sample(5, events=10)], NOW).line.endswith("V100H3600")


def test_long_sample_does_not_start_before_the_hour() -> None:
    found = plot.rate([sample(3595, events=10, seconds=60)], NOW)

    assert found.line.startswith("M0 100V")
    assert "-" not in found.line


def test_lag_is_drawn_between_consecutive_samples() -> None:
    samples = [sample(100, lag=1024), sample(90, lag=512), sample(50, lag=0)]
    found = plot.lag(samples, NOW, None)

    assert found.line == "M3500 0.0L3510 50.0M3510 50.0h0"
    assert found.dashed == ""
    assert found.description == "Peak 1\u00a0kB at 13:33."


def test_current_lag_is_drawn() -> None:
    old = plot.lag([sample(100, lag=1024)], NOW, 512)
    assert old.dashed == "M3500 0.0L3600 50.0"
    assert old.present == "50.0%"
    assert old.description == "512\u00a0B now. Peak 1\u00a0kB at 13:33."

    assert plot.lag([sample(10, lag=1024)], NOW, 512).line == "M3590 0.0L3600 50.0"


def test_axes() -> None:
    found = plot.lag([], NOW, 3 * 2**20)

    assert [(mark.at, mark.label) for mark in found.values] == [
        ("0.0%", "4\u00a0MB"),
        ("50.0%", "2\u00a0MB"),
        ("100.0%", "0\u00a0B"),
    ]
    assert [mark.label for mark in found.times] == [
        *("12:40", "12:50", "13:00", "13:10", "13:20", "13:30")
    ]
    assert found.times[-1].at == f"{100 - 100 * 296 / 3600:.2f}%"


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (0.3, 1), (1, 1), (3, 5), (7, 10), (1200, 2000), (99_999, 100_000)],
)
def test_top_of_the_axis_is_a_round_number(value: float, top: float) -> None:
    found = plot.rate([sample(100, events=round(value * 10))], NOW)

    assert found.values[0].label.replace(",", "") == str(top)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 kB"),
        (300 * 2**20, "300 MB"),
        (5 * 2**40, "5 TB"),
    ],
)
def test_sizes(value: int, text: str) -> None:
    assert plot.size(value).replace("\u00a0", " ") == text
