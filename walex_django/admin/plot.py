"""
Plots of a stream's events and lag in the last hour, as parts of an SVG.

The SVG is as wide as the page allows. Therefore the lines are drawn in a box of `WIDTH`
by `HEIGHT` that is stretched, and marks are placed at percentages of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext as _

from walex_django import units
from walex_django.models import StreamSample
from walex_django.monitoring.status import HISTORY

WIDTH = HISTORY.seconds
HEIGHT = 100

_GAP = 25.0  # seconds; with more between two samples, the lag between them is unknown
_JITTER = 2.0  # seconds; with less between two samples, one continues the other
_MINUTES = 10  # between two marks


@dataclass(frozen=True, slots=True)
class Mark:
    """
    A mark on an axis.

    Attributes:
        at: Its position, in percent of the axis.
        label: Its label.
    """

    at: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """
    A plot of the last hour.

    Attributes:
        title: The title, with the unit.
        description: The plot in words, for users who cannot see it.
        line: The path of the line.
        dashed: The path of the line where its course is not known for sure.
        area: The path of the area below the line.
        values: The marks of the vertical axis.
        times: The marks of the horizontal axis.
        present: The current value, in percent from the top; empty if unknown.
        empty: Whether there is nothing to plot.
    """

    title: str
    description: str
    line: str
    dashed: str = ""
    area: str = ""
    values: Sequence[Mark]
    times: Sequence[Mark]
    present: str = ""
    empty: bool = False

    box = f"0 0 {WIDTH} {HEIGHT}"


def rate(samples: Iterable[StreamSample], now: datetime) -> Plot:
    """
    Plot the events per second. Between samples, nothing was delivered.

    Args:
        samples: The samples, in order.
        now: The time at the right end.
    """
    steps = list(_steps(samples, now))
    top = _round_number(max((value for _, _, value in steps), default=0))
    path, previous_end = f"M0 {HEIGHT}", 0.0
    for start, end, value in steps:
        if start > previous_end:
            path += f"V{HEIGHT}H{start:.0f}"
        path += f"V{_y(value, top)}H{end:.0f}"
        previous_end = end
    if previous_end < WIDTH:
        path += f"V{HEIGHT}H{WIDTH}"
    peak = max(steps, key=lambda step: step[2], default=None)
    return Plot(
        title=_("Events per second"),
        description=_("None in the last hour.")
        if peak is None
        else _("Peak %(rate)s at %(time)s.")
        % {
            "rate": number(peak[2]),
            "time": _clock(now - timedelta(seconds=WIDTH - peak[1])),
        },
        line=path,
        area=f"{path}V{HEIGHT}H0Z" if steps else "",
        values=_marks(top, number),
        times=_times(now),
        empty=not steps,
    )


def lag(samples: Iterable[StreamSample], now: datetime, present: int | None) -> Plot:
    """
    Plot the unprocessed WAL in bytes.

    Args:
        samples: The samples, in order.
        now: The time at the right end.
        present: The current lag, if known.
    """
    points = [
        (WIDTH - (now - sample.at).total_seconds(), sample.lag)
        for sample in samples
        if sample.lag is not None
    ]
    if present is not None:
        points.append((float(WIDTH), present))
    top = _round_size(max((value for _, value in points), default=0))
    line, dashed = [], []
    for (x, value), (next_x, next_value) in pairwise(points):
        segment = f"M{x:.0f} {_y(value, top)}L{next_x:.0f} {_y(next_value, top)}"
        if next_x - x <= _GAP:
            line.append(segment)
        else:
            # A single sample is drawn as a dot.
            line.append(f"M{x:.0f} {_y(value, top)}h0")
            if next_x == WIDTH and present is not None:
                dashed.append(segment)
    peak = max(points, key=lambda point: point[1], default=None)
    words = []
    if present is not None:
        words.append(_("%(size)s now.") % {"size": size(present)})
    if peak is not None and peak[1]:
        words.append(
            _("Peak %(size)s at %(time)s.")
            % {
                "size": size(peak[1]),
                "time": _clock(now - timedelta(seconds=WIDTH - peak[0])),
            }
        )
    return Plot(
        title=_("Lag"),
        description=" ".join(words) or _("Unknown."),
        line="".join(line),
        dashed="".join(dashed),
        values=_marks(top, size),
        times=_times(now),
        present="" if present is None else f"{_y(present, top)}%",
        empty=not points,
    )


def _steps(
    samples: Iterable[StreamSample], now: datetime
) -> Iterator[tuple[float, float, float]]:
    """Yield the start and the end of each period with events, and their rate."""
    previous_end = 0.0
    ordered = list(samples)
    for number, sample in enumerate(ordered, 1):
        end = WIDTH - (now - sample.at).total_seconds()
        start = max(end - sample.seconds, previous_end)
        if start - previous_end < _JITTER:
            start = previous_end
        previous_end = end
        if number == len(ordered) and WIDTH - end <= _GAP:
            end = WIDTH  # current events are counted in the next sample
        if sample.events and end > start:
            yield start, end, sample.events / max(sample.seconds, 0.1)


def _y(value: float, top: float) -> str:
    """Return the vertical position of a value, counted from the top."""
    return f"{HEIGHT * (1 - value / top):.1f}"


def _marks(top: float, label: Callable[[float], str]) -> list[Mark]:
    return [Mark(f"{_y(value, top)}%", label(value)) for value in (top, top / 2, 0)]


def _times(now: datetime) -> list[Mark]:
    """Return marks at the round times of the last hour."""
    local = local_time(now)
    since_mark = timedelta(
        minutes=local.minute % _MINUTES,
        seconds=local.second,
        microseconds=local.microsecond,
    )
    marks = []
    for number in range(HISTORY.seconds // 60 // _MINUTES):
        ago = since_mark + timedelta(minutes=number * _MINUTES)
        at = 100 - 100 * ago / HISTORY
        marks.append(Mark(f"{at:.2f}%", _clock(now - ago)))
    return marks[::-1]


def _clock(at: datetime) -> str:
    return date_format(local_time(at), "H:i")


def local_time(at: datetime) -> datetime:
    """Return a time in the current time zone."""
    # Times from a server are aware, and Django's are only with USE_TZ.
    aware = timezone.make_aware(at) if timezone.is_naive(at) else at
    return timezone.localtime(aware)


def number(value: float) -> str:
    """Return a rate with as many decimal places as are useful."""
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 0.1 else 2
    return str(number_format(round(value, digits), digits, force_grouping=True))


def _round_number(value: float) -> float:
    """Round up to the next of 1, 2, 5, 10, 20 and so on."""
    if value <= 1:
        return 1
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value)


def _round_size(value: int) -> int:
    """Round up to the next power of two, at least 1 kB."""
    return max(1024, 1 << max(value - 1, 0).bit_length())


def size(value: float) -> str:
    """Return a number of bytes in a readable unit, without line breaks."""
    return units.format_size(value).replace(" ", "\u00a0")
