"""The admin's streams page and its actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.cache import patch_vary_headers
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from walex_django.conf import reader
from walex_django.conf.configs import get_config, get_configs
from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.models import Stream
from walex_django.monitoring import inspection, timed_inspection
from walex_django.monitoring.status import ListenerStatus, StreamState, StreamStatus
from walex_django.replication.errors import ReplicationError

from . import plot, stream_actions
from .plot import Plot
from .read_only import ReadOnlyAdmin

REFRESH = "X-Walex-Refresh"
"""The header of requests for the streams alone, without the page around them."""

_TEMPLATES = "admin/walex_django/stream"


@admin.register(Stream)
class StreamAdmin(ReadOnlyAdmin):
    """
    Shows the status of the streams, pauses and resumes them, and drops slots.

    The page requires ``view_stream``; the actions also require ``pause_stream``,
    ``resume_stream`` and ``drop_slot``. Streams are not rows, so they cannot be added,
    changed or deleted.
    """

    def has_view_permission(  # noqa: D102
        self, request: HttpRequest, obj: Any = None
    ) -> bool:
        return _may(request, "view_stream")

    def has_delete_permission(  # noqa: D102
        self, request: HttpRequest, obj: Any = None
    ) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the page and of each action's page."""

        def url(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            wrapped = self.admin_site.admin_view(view)
            # Listeners are notified after the COMMIT of the change, and a transaction
            # must not stay open while an unreachable server is waited for.
            for alias in connections:
                wrapped = transaction.non_atomic_requests(alias)(wrapped)
            return path(route, wrapped, name=f"walex_django_stream_{name}")

        return [
            url("", self.changelist_view, "changelist"),
            url("<path:stream>/pause/", self.pause_view, "pause"),
            url("<path:stream>/resume/", self.resume_view, "resume"),
            url("<path:stream>/drop/<str:slot>/", self.drop_view, "drop"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the streams."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        # Lets the templates reverse URLs of this admin site.
        request.current_app = self.admin_site.name
        context = _overview(request)
        template = "streams"
        if REFRESH not in request.headers:
            context |= {**self.page(request, _("Streams")), **(extra_context or {})}
            template = "change_list"
        response = TemplateResponse(request, f"{_TEMPLATES}/{template}.html", context)
        patch_vary_headers(response, [REFRESH])
        return response

    def pause_view(self, request: HttpRequest, stream: str) -> HttpResponse:
        """Pause a stream after confirmation."""
        return self._set_paused(request, stream, paused=True)

    def resume_view(self, request: HttpRequest, stream: str) -> HttpResponse:
        """Resume a stream after confirmation."""
        return self._set_paused(request, stream, paused=False)

    def drop_view(self, request: HttpRequest, stream: str, slot: str) -> HttpResponse:
        """
        Drop a slot that has no reader, after confirmation.

        Args:
            request: The request; if a stream reads from the slot, with the reason.
            stream: The name of a stream on the slot's server.
            slot: The name of the slot.
        """
        _require(request, "drop_slot")
        config = _config(stream)
        reason = " ".join(request.POST.get("reason", "").split())
        try:
            candidate = stream_actions.candidate(config, slot)
            confirmed = request.method == "POST"
            if not confirmed or (candidate.owners and not reason):
                context = {"candidate": candidate, "reason_missing": confirmed}
                return self._confirm(request, "drop", _("Drop slot"), slot, context)
            stream_actions.drop(config, slot)
        except ReplicationError as error:
            return self._back(request, messages.ERROR, str(error))
        entry = [_("Dropped the slot.")]
        if candidate.owners:
            entry.append(_("Used by: %s.") % ", ".join(candidate.owners))
        entry.append(reason)
        self.add_log_entry(request, DELETION, slot, " ".join(entry).strip())
        done = _("The slot “%(slot)s” was dropped.") % {"slot": slot}
        return self._back(request, messages.SUCCESS, done)

    def _set_paused(
        self, request: HttpRequest, stream: str, *, paused: bool
    ) -> HttpResponse:
        _require(request, "pause_stream" if paused else "resume_stream")
        config = _config(stream)
        if request.method != "POST":
            title = _("Pause stream") if paused else _("Resume stream")
            context = {
                "stream": inspection.inspect_all([config], diagnose=False).streams[0],
                "pausing": paused,
            }
            return self._confirm(request, "pause", title, stream, context)
        try:
            not_notified = stream_actions.set_paused(config, paused)
        except ReplicationError as error:
            return self._back(request, messages.ERROR, str(error))
        entry = _("Paused.") if paused else _("Resumed.")
        self.add_log_entry(request, CHANGE, stream, entry)
        done = (
            _("Pausing the stream “%(stream)s” after the current transaction.")
            if paused
            else _("Resuming the stream “%(stream)s”.")
        ) % {"stream": stream}
        if not_notified:
            text = _("Its listener applies the change when it reconnects: %s")
            done += " " + text % not_notified
            return self._back(request, messages.WARNING, done)
        return self._back(request, messages.SUCCESS, done)

    def _confirm(
        self,
        request: HttpRequest,
        action: str,
        title: str,
        name: str,
        context: dict[str, Any],
    ) -> HttpResponse:
        context |= {**self.page(request, title), "name": name}
        return TemplateResponse(request, f"{_TEMPLATES}/{action}.html", context)

    def _back(self, request: HttpRequest, level: int, message: str) -> HttpResponse:
        self.message_user(request, message, level)
        page = "admin:walex_django_stream_changelist"
        return HttpResponseRedirect(reverse(page, current_app=self.admin_site.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """
    A stream as displayed on the page.

    Attributes:
        status: The stream's status.
        tone: ``"good"``, ``"calm"``, ``"poor"`` or ``"bad"``.
        reason: Why the stream is in its state, unless a problem says so.
        problems: The problems, the worst first.
        problem_count: The number of problems that are not just notes.
        listeners: The listeners, the one that reads the slot first.
        plots: The plots of the last hour.
        identities: The number of tables with each replica identity.
        parked_url: The URL of the stream's parked events; empty if the user may not
            see them.
        droppable: Whether the slot can be dropped.
    """

    status: StreamStatus
    tone: str
    reason: str
    problems: Sequence[Problem]
    problem_count: int
    listeners: Sequence[ListenerStatus]
    plots: Sequence[Plot]
    identities: str
    parked_url: str
    droppable: bool


_RANKS = {"E": 0, "W": 1, "I": 2}  # by the first letter of a problem's id
_TONES = {
    StreamState.RUNNING: "good",
    StreamState.STARTING: "calm",
    StreamState.PAUSED: "calm",
    StreamState.STANDBY: "calm",
    StreamState.RETRYING: "poor",
    StreamState.STOPPED: "poor",
    StreamState.TAKEN: "poor",
}


def _overview(request: HttpRequest) -> dict[str, Any]:
    """Return the context for the streams and slots of the page."""
    may = {
        action: _may(request, action)
        for action in ("drop_slot", "pause_stream", "resume_stream")
    }
    try:
        configs = get_configs()
    except ImproperlyConfigured:
        _configs, problems = reader.read(getattr(settings, "WALEX", None))
        return {"may": may, "problems": problems}
    overview = timed_inspection.inspect_all(configs.values())
    return {
        "may": may,
        "cards": [_card(stream, request) for stream in overview.streams],
        "others": overview.others,
    }


def _card(stream: StreamStatus, request: HttpRequest) -> Card:
    samples, slot = stream.records.samples, stream.slot
    problems = sorted(
        stream.problems, key=lambda problem: _RANKS.get(problem.id[:1], 1)
    )
    return Card(
        status=stream,
        tone=_TONES.get(stream.state, "bad"),
        reason="" if stream.state == StreamState.LOST else stream.reason,
        problems=problems,
        problem_count=sum(not problem.id.startswith("I") for problem in problems),
        listeners=sorted(stream.listeners, key=lambda listener: not listener.reads),
        plots=[
            plot.lag(samples, stream.now, slot.lag if slot else None),
            plot.rate(samples, stream.now),
        ],
        identities=", ".join(
            f"{count} {identity}"
            for identity, count in Counter(
                table.identity for table in stream.tables
            ).most_common()
        ),
        parked_url=_parked_url(stream.config, request),
        droppable=slot is not None and not stream_actions.obstacle(slot),
    )


def _parked_url(config: StreamConfig, request: HttpRequest) -> str:
    if not _may(request, "view_parkedevent"):
        return ""
    name = "admin:walex_django_parkedevent_changelist"
    try:
        page = reverse(name, current_app=request.current_app)
    except NoReverseMatch:
        return ""
    return f"{page}?{urlencode({'stream__exact': config.name})}"


def _may(request: HttpRequest, permission: str) -> bool:
    return request.user.has_perm(f"walex_django.{permission}")


def _require(request: HttpRequest, permission: str) -> None:
    if not (_may(request, "view_stream") and _may(request, permission)):
        raise PermissionDenied


def _config(stream: str) -> StreamConfig:
    try:
        return get_config(stream)
    except ImproperlyConfigured as error:
        raise Http404(str(error)) from error
