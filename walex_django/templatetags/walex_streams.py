"""Template filters of the streams page, for sizes, times and commands."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from walex_django.admin import plot

register = template.Library()


@register.filter
def size(value: int | None) -> str:
    """Return a number of bytes in a readable unit, or "unknown"."""
    return _("unknown") if value is None else plot.size(value)


@register.filter
def rate(value: float) -> str:
    """Return a rate with as many decimal places as are useful."""
    return plot.number(value)


@register.filter
def duration(value: timedelta | None) -> str:
    """Return a duration in its two largest units, or "unknown"."""
    if value is None:
        return _("unknown")
    seconds = value.total_seconds()
    if 0 < seconds < 1:
        return _("under a second")
    return _units(int(max(seconds, 0)))


def _units(seconds: int) -> str:
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count or parts:
            parts.append(f"{count}\u00a0{unit}" if count else "")
    return " ".join(filter(None, parts[:2])) or "0\u00a0s"


@register.filter
def age(since: datetime) -> str:
    """Return the time that has passed since then."""
    return duration(plot.local_time(timezone.now()) - plot.local_time(since))


@register.filter
def when(at: datetime) -> str:
    """Return a time of day, with the date unless it is today."""
    local = plot.local_time(at)
    if local.date() == plot.local_time(timezone.now()).date():
        return date_format(local, "H:i:s")
    return f"{date_format(local, 'SHORT_DATE_FORMAT')} {date_format(local, 'H:i')}"


_CODE = re.compile(
    r"`(?P<quoted>[^`]+)`"
    r"|(?P<command>(?:python manage\.py|(?<=: )(?:ALTER|CREATE|DROP|GRANT|SELECT)) .+?)"
    r"(?=;? (?:and )?then\b|[,;] or | prints the SQL|\.\s|[.;]*$)"
)


@register.filter
def with_code(text: str) -> SafeString:
    """Return a hint as HTML, with its commands marked as code."""
    parts: list[SafeString | str] = []
    end = 0
    for match in _CODE.finditer(text):
        parts.append(text[end : match.start()])
        parts.append(
            format_html("<code>{}</code>", match["quoted"] or match["command"])
        )
        end = match.end()
    parts.append(text[end:])
    return format_html_join("", "{}", ((part,) for part in parts))
