"""The app, for INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _


class WalexConfig(AppConfig):
    """Registers the system checks."""

    name = "walex_django"
    verbose_name = _("Change data capture")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:  # noqa: D102
        from .checks import check_settings

        register(check_settings)
