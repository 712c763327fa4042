"""What walex_django itself keeps in the database."""

from __future__ import annotations

import json
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from .pgoutput.lsn import Lsn


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
        permissions = [("replay_parkedevent", _("Can replay parked event"))]

    def __str__(self) -> str:
        return f"{self.event_id} for {self.receiver}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the receiver is called with, as JSON has it."""
        loaded: dict[str, Any] = json.loads(self.arguments_json)
        return loaded


class Checkpoint(models.Model):
    """
    How far the receivers' work on a durable slot is done.

    Positions are numbers here; `Lsn` prints them as PostgreSQL does.
    """

    system_identifier = models.BigIntegerField(_("system identifier"))
    slot_name = models.CharField(_("slot"), max_length=63)
    stream = models.CharField(_("stream"), max_length=200)
    timeline = models.BigIntegerField(
        _("timeline"), help_text=_("The server's, or 0: the slot was not read yet.")
    )
    position = models.BigIntegerField(
        _("position"),
        help_text=_("COMMIT of the last transaction whose work is done."),
    )
    confirmed = models.BigIntegerField(
        _("confirmed"),
        null=True,
        help_text=_("What the server was told last, if the listener ended in order."),
    )
    statistics_since = models.BigIntegerField(
        _("statistics since"),
        null=True,
        help_text=_("In microseconds: since then the server counts transactions."),
    )
    session = models.UUIDField(_("session"), null=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["system_identifier", "slot_name"],
                name="walex_django_checkpoint_slot",
            )
        ]
        verbose_name = _("checkpoint")
        verbose_name_plural = _("checkpoints")

    def __str__(self) -> str:
        return f"{self.slot_name} at {Lsn(self.position)}"


class StreamSetting(models.Model):
    """
    A setting of a stream that was changed while it ran.

    ``manage.py walex_config`` changes it.
    """

    stream = models.CharField(_("stream"), max_length=200)
    key = models.CharField(_("key"), max_length=50)
    value = models.JSONField(_("value"))
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["stream", "key"], name="walex_django_streamsetting_key"
            )
        ]
        verbose_name = _("changed setting")
        verbose_name_plural = _("changed settings")

    def __str__(self) -> str:
        return f"{self.key} of {self.stream}"


class ListenerState(models.TextChoices):
    """What a listener does."""

    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    STANDBY = "standby", _("standing by")
    RETRYING = "retrying", _("retrying")
    STOPPED = "stopped", _("stopped")
    FAILED = "failed", _("failed")


READS = frozenset({ListenerState.RUNNING, ListenerState.PAUSED})
"""The states of a listener that has the slot."""

WAITS = frozenset({ListenerState.STANDBY, ListenerState.RETRYING})
"""Of one that waits for it, or for the server."""


class ListenerReport(models.Model):
    """
    What a listener says of itself that its server does not know.

    It is written when the state changes and, while there is work, now and then; so an
    old report need not be a bad sign. Whether a listener that says "running" still
    does, the slot tells: its reader is the process ``backend_pid`` of PostgreSQL.
    """

    stream = models.CharField(_("stream"), max_length=200)
    listener = models.UUIDField(_("listener"))
    host = models.CharField(_("host"), max_length=255)
    process = models.PositiveIntegerField(_("process"))
    backend_pid = models.IntegerField(_("process of PostgreSQL"), null=True)
    state = models.CharField(_("state"), max_length=20, choices=ListenerState.choices)
    reason = models.TextField(_("reason"), blank=True)
    since = models.DateTimeField(_("since"))
    events = models.BigIntegerField(_("events"), default=0)
    transactions = models.BigIntegerField(_("transactions"), default=0)
    failures = models.BigIntegerField(
        _("failures"),
        default=0,
        help_text=_("Calls of receivers that failed in spite of all retries."),
    )
    last_event_id = models.CharField(_("last event"), max_length=100, blank=True)
    last_event_at = models.DateTimeField(_("last event committed at"), null=True)
    delivering_since = models.DateTimeField(
        _("delivering since"),
        null=True,
        help_text=_("When the transaction was committed that is being delivered."),
    )
    updated_at = models.DateTimeField(_("updated at"))

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["stream", "listener"], name="walex_django_listenerreport_one"
            )
        ]
        verbose_name = _("listener report")
        verbose_name_plural = _("listener reports")

    def __str__(self) -> str:
        return f"{self.stream} on {self.host}: {self.state}"


class StreamSample(models.Model):
    """How much a stream delivered in some seconds, and its lag after them."""

    stream = models.CharField(_("stream"), max_length=200)
    at = models.DateTimeField(_("at"))
    seconds = models.FloatField(_("seconds"))
    events = models.BigIntegerField(_("events"))
    transactions = models.BigIntegerField(_("transactions"))
    lag = models.BigIntegerField(_("lag"), null=True, help_text=_("In bytes of log."))

    class Meta:
        default_permissions = ()
        indexes = [
            models.Index(fields=["stream", "at"], name="walex_django_sample_place")
        ]
        verbose_name = _("sample")
        verbose_name_plural = _("samples")

    def __str__(self) -> str:
        return f"{self.stream} at {self.at:%H:%M:%S}"


class Stream(ListenerReport):
    """What the admin's page of streams, and who may do what there, hangs on."""

    class Meta:
        proxy = True
        default_permissions = ("view",)
        permissions = [
            ("drop_slot", _("Can drop slot")),
            ("pause_stream", _("Can pause stream")),
            ("resume_stream", _("Can resume stream")),
        ]
        verbose_name = _("stream")
        verbose_name_plural = _("streams")
