"""What walex_django itself keeps in the database."""

from __future__ import annotations

import json
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _


class ParkedEvent(models.Model):
    """
    A call of a receiver that failed in spite of all retries.

    ``manage.py walex_replay`` makes the call again.
    """

    stream = models.CharField(_("stream"), max_length=200)
    signal = models.CharField(_("signal"), max_length=50)
    receiver = models.CharField(_("receiver"), max_length=500)
    event_id = models.CharField(_("event id"), max_length=100, db_index=True)
    table = models.CharField(_("table"), max_length=200, blank=True)
    # Text, for what jsonb does not take: the character U+0000 in a column of type json.
    arguments_json = models.TextField(_("arguments"))
    error = models.TextField(_("error"))
    traceback = models.TextField(_("traceback"))
    attempts = models.PositiveIntegerField(_("attempts"))
    parked_at = models.DateTimeField(_("parked at"), auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["pk"]
        verbose_name = _("parked event")
        verbose_name_plural = _("parked events")

    def __str__(self) -> str:
        return f"{self.event_id} for {self.receiver}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the receiver is called with, as JSON has it."""
        loaded: dict[str, Any] = json.loads(self.arguments_json)
        return loaded
