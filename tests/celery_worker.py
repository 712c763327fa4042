"""The Celery app for the workers."""

from __future__ import annotations

import django

django.setup()

from tests.zoo.celery_tasks import app  # noqa: E402 - its task needs the models

__all__ = ["app"]
