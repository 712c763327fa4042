"""The admin page formats commands in hints as code."""

from __future__ import annotations

from datetime import timedelta

import pytest

from walex_django.templatetags.walex_streams import duration, with_code

SETUP = "python manage.py walex_setup"
PAUSE = "python manage.py walex_config a replace PAUSED false"
WAL = "ALTER SYSTEM SET max_wal_senders = 20"


@pytest.mark.parametrize(
    ("hint", "html"),
    [
        (f"Run: {SETUP}", f"Run: <code>{SETUP}</code>"),
        (f"Run: {SETUP}.", f"Run: <code>{SETUP}</code>."),
        (f"To resume it, run: {PAUSE}", f"To resume it, run: <code>{PAUSE}</code>"),
        (f"Run: {WAL}; then restart.", f"Run: <code>{WAL}</code>; then restart."),
        (
            "Run: ALTER TABLE public.a REPLICA IDENTITY FULL;",
            "Run: <code>ALTER TABLE public.a REPLICA IDENTITY FULL</code>;",
        ),
        (
            f"Run: DROP PUBLICATION a; and then: {SETUP}",
            f"Run: <code>DROP PUBLICATION a</code>; and then: <code>{SETUP}</code>",
        ),
        (
            f"Run: DROP PUBLICATION a; then run: {SETUP}",
            f"Run: <code>DROP PUBLICATION a</code>; then run: <code>{SETUP}</code>",
        ),
        (
            f"Let another do it: {SETUP} --dry-run prints the SQL.",
            f"Let another do it: <code>{SETUP} --dry-run</code> prints the SQL.",
        ),
        ("Upgrade <it>.", "Upgrade &lt;it&gt;."),
        ("", ""),
    ],
)
def test_commands_are_formatted_as_code(hint: str, html: str) -> None:
    assert with_code(hint) == html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "under a second"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3605, "1 h"),
        (93_000, "1 d 1 h"),
        (-3, "0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)).replace("\u00a0", " ") == text
