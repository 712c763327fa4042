"""
Plots of what a stream delivered in the last hour, and of its lag, as parts of an SVG.

The picture is as wide as the page has room. So lines are in a box of `WIDTH` by
`HEIGHT` that is stretched, and marks stand at percentages of it.
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

_GAP = 25.0  # seconds between two samples that are not of the same work
_JITTER = 2.0  # seconds between two samples of which one follows the other
_MINUTES = 10  # between two marks


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis. Attributes: at: in percent of it; label: what is there."""

    at: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """
    A line over the last hour.

    Attributes:
        title: what it shows, with the unit.
        description: the same in words, for who does not see it.
        line, dashed, area: paths; the dashed one is what is not known for sure.
        values, times: the marks of the axes.
        present: where the line ends today, in percent from the top; empty if that is
            not known.
        empty: nothing is to be seen.
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
    Plot the events of each second. Between samples nothing was delivered.

    Args:
        samples: in order.
        now: the right end.
    """
    steps = list(_steps(samples, now))
    top = _round_number(max((value for _, _, value in steps), default=0))
    path, before = f"M0 {HEIGHT}", 0.0
    for start, end, value in steps:
        if start > before:
            path += f"V{HEIGHT}H{start:.0f}"
        path += f"V{_y(value, top)}H{end:.0f}"
        before = end
    if before < WIDTH:
        path += f"V{HEIGHT}H{WIDTH}"
    most = max(steps, key=lambda step: step[2], default=None)
    return Plot(
        title=_("Events a second"),
        description=_("None in the last hour.")
        if most is None
        else _("At most %(rate)s, at %(time)s.")
        % {
            "rate": number(most[2]),
            "time": _clock(now - timedelta(seconds=WIDTH - most[1])),
        },
        line=path,
        area=f"{path}V{HEIGHT}H0Z" if steps else "",
        values=_marks(top, number),
        times=_times(now),
        empty=not steps,
    )


def lag(samples: Iterable[StreamSample], now: datetime, present: int | None) -> Plot:
    """
    Plot the bytes of log that were not done.

    Args:
        samples: in order.
        now: the right end.
        present: what it is now, if that is known.
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
    for (x, value), (then, later) in pairwise(points):
        known = then - x <= _GAP
        to = f"M{x:.0f} {_y(value, top)}L{then:.0f} {_y(later, top)}"
        if known:
            line.append(to)
        else:
            # A sample by itself is a dot.
            line.append(f"M{x:.0f} {_y(value, top)}h0")
            if then == WIDTH and present is not None:
                dashed.append(to)
    most = max(points, key=lambda point: point[1], default=None)
    words = []
    if present is not None:
        words.append(_("%(size)s now.") % {"size": size(present)})
    if most is not None and most[1]:
        words.append(
            _("At most %(size)s, at %(time)s.")
            % {
                "size": size(most[1]),
                "time": _clock(now - timedelta(seconds=WIDTH - most[0])),
            }
        )
    return Plot(
        title=_("Lag"),
        description=" ".join(words) or _("Not known."),
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
    """Return from when to when events came at which rate."""
    before = 0.0
    found = list(samples)
    for number, sample in enumerate(found, 1):
        end = WIDTH - (now - sample.at).total_seconds()
        start = max(end - sample.seconds, before)
        if start - before < _JITTER:
            start = before
        before = end
        if number == len(found) and WIDTH - end <= _GAP:
            end = WIDTH  # what comes now is counted in the next one
        if sample.events and end > start:
            yield start, end, sample.events / max(sample.seconds, 0.1)


def _y(value: float, top: float) -> str:
    """Return where a value is; the picture's first row is 0."""
    return f"{HEIGHT * (1 - value / top):.1f}"


def _marks(top: float, label: Callable[[float], str]) -> list[Mark]:
    return [Mark(f"{_y(value, top)}%", label(value)) for value in (top, top / 2, 0)]


def _times(now: datetime) -> list[Mark]:
    """Return the round times of the last hour."""
    local = local_time(now)
    into = timedelta(
        minutes=local.minute % _MINUTES,
        seconds=local.second,
        microseconds=local.microsecond,
    )
    marks = []
    for number in range(HISTORY.seconds // 60 // _MINUTES):
        before = into + timedelta(minutes=number * _MINUTES)
        at = 100 - 100 * before / HISTORY
        marks.append(Mark(f"{at:.2f}%", _clock(now - before)))
    return marks[::-1]


def _clock(at: datetime) -> str:
    return date_format(local_time(at), "H:i")


def local_time(at: datetime) -> datetime:
    """Return a time as the user's clock has it."""
    # A server's times have a zone, and Django's only with USE_TZ.
    aware = timezone.make_aware(at) if timezone.is_naive(at) else at
    return timezone.localtime(aware)


def number(value: float) -> str:
    """Return a rate, with no more digits than one needs."""
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 0.1 else 2
    return str(number_format(round(value, digits), digits, force_grouping=True))


def _round_number(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20 … that is not less."""
    if value <= 1:
        return 1
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value)


def _round_size(value: int) -> int:
    """Return the next power of two that is not less, in bytes."""
    return max(1024, 1 << max(value - 1, 0).bit_length())


def size(value: float) -> str:
    """Return bytes as people say them, on one line."""
    return units.format_size(value).replace(" ", "\u00a0")
