"""The models in which walex_django stores its own data."""

from __future__ import annotations

import json
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from .pgoutput.lsn import Lsn


class ParkedEvent(models.Model):
    """
    A receiver call that failed after all retries.

    ``manage.py walex_replay`` calls the receiver again.
    """

    stream = models.CharField(_("stream"), max_length=200)
    signal = models.CharField(_("signal"), max_length=50)
    receiver = models.CharField(_("receiver"), max_length=500)
    dispatch_uid = models.TextField(
        _("dispatch_uid"),
        blank=True,
        help_text=_("The dispatch_uid that the receiver was connected with."),
    )
    is_ambiguous = models.BooleanField(
        _("ambiguous"),
        default=False,
        help_text=_("Whether another receiver had the same name and no dispatch_uid."),
    )
    event_id = models.CharField(_("event id"), max_length=100, db_index=True)
    table = models.CharField(_("table"), max_length=200, blank=True)
    # A text column: jsonb rejects U+0000, which a column of type json may contain.
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
        """The arguments of the call, as JSON types."""
        loaded: dict[str, Any] = json.loads(self.arguments_json)
        return loaded


class Checkpoint(models.Model):
    """
    The position in a durable slot up to which receivers have finished.

    Positions are stored as integers. `Lsn` formats them like PostgreSQL.
    """

    system_identifier = models.BigIntegerField(_("system identifier"))
    slot_name = models.CharField(_("slot"), max_length=63)
    stream = models.CharField(_("stream"), max_length=200)
    timeline = models.BigIntegerField(
        _("timeline"),
        help_text=_("The server's timeline, or 0 if the slot has not been read yet."),
    )
    position = models.BigIntegerField(
        _("position"),
        help_text=_(
            "Position of the COMMIT of the last transaction that receivers finished."
        ),
    )
    confirmed = models.BigIntegerField(
        _("confirmed"),
        null=True,
        help_text=_(
            "The last position confirmed to the server, if the listener shut down"
            " cleanly."
        ),
    )
    statistics_since = models.BigIntegerField(
        _("statistics since"),
        null=True,
        help_text=_(
            "Start of the server's statistics for the slot, in microseconds since 1970."
        ),
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


class Gap(models.Model):
    """
    A transaction that the server cannot send, and that was or can be skipped.

    The listener that fails records it; ``manage.py walex_skip`` skips it.
    """

    stream = models.CharField(_("stream"), max_length=200)
    slot_name = models.CharField(_("slot"), max_length=63)
    system_identifier = models.BigIntegerField(_("system identifier"))
    xid = models.BigIntegerField(_("transaction"), null=True)
    commit_lsn = models.BigIntegerField(
        _("COMMIT"), null=True, help_text=_("Position of the transaction's COMMIT.")
    )
    committed_at = models.DateTimeField(_("committed at"), null=True)
    position = models.BigIntegerField(
        _("position"),
        null=True,
        help_text=_("Position of the change that the server cannot send."),
    )
    table = models.CharField(_("table"), max_length=200, blank=True)
    error = models.TextField(_("error"))
    found_at = models.DateTimeField(_("found at"))
    skipped_at = models.DateTimeField(_("skipped at"), null=True)
    skipped_by = models.CharField(_("skipped by"), max_length=200, blank=True)

    class Meta:
        ordering = ["pk"]
        default_permissions = ()
        indexes = [
            models.Index(
                fields=["system_identifier", "slot_name"], name="walex_django_gap_slot"
            )
        ]
        verbose_name = _("gap")
        verbose_name_plural = _("gaps")

    def __str__(self) -> str:
        return f"{self.stream} at {self.place}"

    @property
    def place(self) -> str:
        """The transaction and its position, as far as they are known."""
        known = [f"transaction {self.xid}"] if self.xid is not None else []
        if self.position is not None:
            known.append(f"change at {Lsn(self.position)}")
        if self.commit_lsn is not None:
            known.append(f"COMMIT at {Lsn(self.commit_lsn)}")
        return ", ".join(known) or "unknown position"


class StreamSetting(models.Model):
    """
    A setting of a stream that was changed at runtime.

    ``manage.py walex_config`` stores, changes and deletes it.
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
        verbose_name = _("stream setting")
        verbose_name_plural = _("stream settings")

    def __str__(self) -> str:
        return f"{self.key} of {self.stream}"


class ListenerState(models.TextChoices):
    """The states of a listener."""

    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    STANDBY = "standby", _("standing by")
    RETRYING = "retrying", _("retrying")
    STOPPED = "stopped", _("stopped")
    FAILED = "failed", _("failed")


READS = frozenset({ListenerState.RUNNING, ListenerState.PAUSED})
"""The states of a listener that holds the slot."""

WAITS = frozenset({ListenerState.STANDBY, ListenerState.RETRYING})
"""The states of a listener that waits for the slot or the server."""


class ListenerReport(models.Model):
    """
    The state of a listener, as reported by the listener itself.

    A listener writes its report when its state changes, and from time to time while it
    delivers events. An idle listener therefore has an old report. To find out whether a
    listener reported as running still is, compare ``backend_pid`` with the process that
    reads the slot.
    """

    stream = models.CharField(_("stream"), max_length=200)
    listener = models.UUIDField(_("listener"))
    host = models.CharField(_("host"), max_length=255)
    process = models.PositiveIntegerField(_("process"))
    backend_pid = models.IntegerField(_("PostgreSQL process"), null=True)
    state = models.CharField(_("state"), max_length=20, choices=ListenerState.choices)
    reason = models.TextField(_("reason"), blank=True)
    since = models.DateTimeField(_("since"))
    events = models.BigIntegerField(_("events"), default=0)
    transactions = models.BigIntegerField(_("transactions"), default=0)
    failures = models.BigIntegerField(
        _("failures"),
        default=0,
        help_text=_("Receiver calls that failed after all retries."),
    )
    failing = models.JSONField(
        _("failing receivers"),
        default=list,
        help_text=_(
            "Receivers that are being retried or whose circuit breaker is open."
        ),
    )
    last_event_id = models.CharField(_("last event"), max_length=100, blank=True)
    last_event_at = models.DateTimeField(_("last event committed at"), null=True)
    delivering_since = models.DateTimeField(
        _("delivering since"),
        null=True,
        help_text=_("Commit time of the transaction that is being delivered."),
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
    """The events that a stream delivered in a period, and its lag at the end of it."""

    stream = models.CharField(_("stream"), max_length=200)
    at = models.DateTimeField(_("at"))
    seconds = models.FloatField(_("seconds"))
    events = models.BigIntegerField(_("events"))
    transactions = models.BigIntegerField(_("transactions"))
    lag = models.BigIntegerField(_("lag"), null=True, help_text=_("In bytes of WAL."))

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
    """A proxy that carries the admin's streams page and its permissions."""

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
