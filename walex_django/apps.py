"""The Django app."""

from __future__ import annotations

from itertools import chain

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Tags, register
from django.utils.translation import gettext_lazy as _


class WalexConfig(AppConfig):
    """
    The app's configuration.

    At startup, it registers the system checks, installs the context's execute wrapper
    and loads the handlers.
    """

    name = "walex_django"
    verbose_name = _("Change data capture")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:  # noqa: D102
        from .checks import check_databases, check_settings
        from .conf import configs, reader
        from .context import writer
        from .handlers import registry

        register(check_settings, self.name)
        register(check_databases, Tags.database)
        writer.install()
        # Invalid streams are skipped here, and reported by the system check.
        streams, _ = reader.read(getattr(settings, "WALEX", None))
        registry.load(chain(*(config.modules for config in streams.values())))
        configs.load_modules_with(registry.load)
