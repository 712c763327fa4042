"""System checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from . import conf
from .filters import Subscriptions


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check the shape of ``WALEX``; asks no server."""
    configs, problems = conf.read(getattr(settings, "WALEX", None))
    found = list(problems)
    for config in configs.values():
        for entry in config.subscriptions:
            try:
                Subscriptions([entry])
            except ImproperlyConfigured as error:
                path = f"WALEX[{config.name!r}]['SUBSCRIPTIONS']"
                hint = "Mend the name, or write 'app.*' for all models of the app."
                found.append(conf.Problem("E006", f"{path}: {error}", hint))
    return [
        (checks.Warning if problem.id.startswith("W") else checks.Error)(
            problem.message, hint=problem.hint or None, id=f"walex_django.{problem.id}"
        )
        for problem in found
    ]
