"""The app that Celery's workers are started with."""

from __future__ import annotations

import django

django.setup()

from tests.zoo.celery_tasks import app  # noqa: E402 - its task needs the models

__all__ = ["app"]
