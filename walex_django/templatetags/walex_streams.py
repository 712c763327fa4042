"""How the admin's page of streams writes sizes, times and commands."""

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
    """Return bytes as people say them, or that they are not known."""
    return _("unknown") if value is None else plot.size(value)


@register.filter
def rate(value: float) -> str:
    """Return how many there are each second, with no more digits than one needs."""
    return plot.number(value)


@register.filter
def duration(value: timedelta | None) -> str:
    """Return a time in its two largest units."""
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
    """Return how long ago something was."""
    return duration(plot.local_time(timezone.now()) - plot.local_time(since))


@register.filter
def when(at: datetime) -> str:
    """Return the time of a day, with the date unless it is today."""
    local = plot.local_time(at)
    if local.date() == plot.local_time(timezone.now()).date():
        return date_format(local, "H:i:s")
    return f"{date_format(local, 'SHORT_DATE_FORMAT')} {date_format(local, 'H:i')}"


_CODE = re.compile(
    r"`(?P<quoted>[^`]+)`"
    r"|(?P<command>(?:python manage\.py|(?<=: )(?:ALTER|CREATE|DROP|GRANT|SELECT)) .+?)"
    r"(?=;? (?:and )?then\b|, or | prints the SQL|\.\s|[.;]*$)"
)


@register.filter
def with_code(text: str) -> SafeString:
    """Return a hint as HTML, with the commands in it marked as such."""
    parts: list[SafeString | str] = []
    end = 0
    for found in _CODE.finditer(text):
        parts.append(text[end : found.start()])
        parts.append(
            format_html("<code>{}</code>", found["quoted"] or found["command"])
        )
        end = found.end()
    parts.append(text[end:])
    return format_html_join("", "{}", ((part,) for part in parts))
