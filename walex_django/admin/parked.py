"""The admin pages of parked events, and their replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from walex_django.delivery.identity import AmbiguousReceiver, NotConnected
from walex_django.delivery.parking import describe
from walex_django.delivery.replay import replay
from walex_django.models import ParkedEvent
from walex_django.monitoring.parked_display import (
    ParkedDisplay,
    count_events,
    truncate,
    truncate_traceback,
)

from .read_only import ReadOnlyAdmin

MAX_REPLAYED = 200
"""The maximum number of parked events that one request replays."""

_MAX_MESSAGES = 10  # outcomes that get a message each
_MAX_ERROR = 100  # characters of an error in the list
_TEMPLATES = "admin/walex_django/parkedevent"


_View = TypeVar("_View", bound=Callable[..., HttpResponse])


def _outside_transactions(view: _View) -> _View:
    """Exempt a view from ``ATOMIC_REQUESTS``: receivers may open durable blocks."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


@admin.register(ParkedEvent)
class ParkedEventAdmin(ReadOnlyAdmin):
    """
    Lists parked events, shows their errors and values, and replays or deletes them.

    These require the permissions ``view_parkedevent``, ``replay_parkedevent`` and
    ``delete_parkedevent``. Parked events cannot be added or changed by hand.
    """

    list_filter = (
        "stream",
        ("receiver", admin.AllValuesFieldListFilter),
        ("table", admin.AllValuesFieldListFilter),
        "parked_at",
    )
    search_fields = ("event_id", "receiver")
    search_help_text = gettext_lazy("Search by event id or receiver")
    ordering = ("-pk",)
    list_per_page = 50
    list_max_show_all = MAX_REPLAYED
    actions = ("replay_selected",)

    class Media:
        css = {"all": ["walex_django/parked.css"]}

    def has_view_permission(  # noqa: D102
        self, request: HttpRequest, obj: Any = None
    ) -> bool:
        return request.user.has_perm("walex_django.view_parkedevent")

    def has_delete_permission(  # noqa: D102
        self, request: HttpRequest, obj: Any = None
    ) -> bool:
        may = super().has_delete_permission(request, obj)
        return may and self.has_view_permission(request, obj)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may replay parked events."""
        return request.user.has_perm(
            "walex_django.replay_parkedevent"
        ) and self.has_view_permission(request)

    def lookup_allowed(
        self, lookup: str, value: Any, request: HttpRequest | None = None
    ) -> bool:
        """Return whether a URL may filter by a lookup. Masked columns are excluded."""
        return lookup.partition("__")[0] in {"stream", "receiver", "table", "parked_at"}

    def get_queryset(self, request: HttpRequest) -> QuerySet[ParkedEvent]:
        """Return the parked events without the columns that may be large."""
        return super().get_queryset(request).defer("arguments_json", "traceback")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Return the columns of the list, with sensitive values masked in errors."""
        return [
            *("event_id", "table", "receiver"),
            _error_column(ParkedDisplay()),
            *("attempts", "parked_at", "signal", "stream"),
        ]

    @_outside_transactions
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, or run the selected action if the user may do so."""
        refused = {
            "replay_selected": not self.has_replay_permission(request),
            "delete_selected": not self.has_delete_permission(request),
        }
        if any(refused.get(action) for action in request.POST.getlist("action")):
            raise PermissionDenied
        title = {"title": _("Parked events"), **(extra_context or {})}
        return super().changelist_view(request, title)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a parked event."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        parked = self.get_object(request, unquote(object_id))
        if parked is None or request.method not in {"GET", "HEAD"}:
            # Django reports a missing object, and refuses changes.
            return super().change_view(request, object_id, form_url, extra_context)
        display = ParkedDisplay()
        mask = display.mask(parked)
        events = display.events(parked)
        context = {
            **self.page(request, _("Parked event")),
            "parked": parked,
            "original": parked,
            "is_known": display.is_known(parked),
            "events": events,
            "more": count_events(parked) - len(events),
            "message": display.message(parked),
            "error": truncate(mask(parked.error)),
            "traceback": truncate_traceback(mask(parked.traceback)),
            "may_replay": self.has_replay_permission(request),
            "may_delete": self.has_delete_permission(request, parked),
            **(extra_context or {}),
        }
        return TemplateResponse(request, f"{_TEMPLATES}/detail.html", context)

    @admin.action(
        description=gettext_lazy("Replay selected parked events"),
        permissions=["replay"],
    )
    def replay_selected(
        self, request: HttpRequest, queryset: QuerySet[ParkedEvent]
    ) -> HttpResponse | None:
        """Call the receivers again, after confirmation."""
        count = queryset.count()
        if count > MAX_REPLAYED:
            text = _(
                "You selected %(count)d parked events, but at most %(limit)d can be"
                " replayed here at once. To replay all of them, run: python manage.py"
                " walex_replay"
            )
            text %= {"limit": MAX_REPLAYED, "count": count}
            self.message_user(request, text, messages.ERROR)
            return None
        if not request.POST.get("confirmed"):
            context = {
                **self.page(request, _("Replay parked events")),
                "parked_events": queryset.order_by("pk"),
                "count": count,
                "action_checkbox_name": ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, f"{_TEMPLATES}/replay.html", context)
        self._replay(request, queryset)
        return None

    def _replay(self, request: HttpRequest, queryset: QuerySet[ParkedEvent]) -> None:
        selected = list(queryset.values_list("pk", flat=True))
        display, delivered, failures = ParkedDisplay(), [], []
        for parked, error in replay(ParkedEvent.objects.filter(pk__in=selected)):
            if error is None:
                delivered.append(str(parked))
                self._log_replay(request, parked, _("Replayed: delivered."))
                continue
            text = _error_text(error, display.mask(parked)(describe(error)))
            failures.append(
                _("%(parked)s failed again: %(error)s")
                % {"parked": parked, "error": text}
            )
            self._log_replay(request, parked, _("Replayed: failed again."))
        self._report_delivered(request, delivered)
        for failure in failures[:_MAX_MESSAGES]:
            self.message_user(request, failure, messages.ERROR)
        if len(failures) > _MAX_MESSAGES:
            text = _("%d more failed again.") % (len(failures) - _MAX_MESSAGES)
            self.message_user(request, text, messages.ERROR)
        if skipped := len(selected) - len(delivered) - len(failures):
            text = ngettext(
                "%d was skipped because it is already being replayed.",
                "%d were skipped because they are already being replayed.",
                skipped,
            )
            self.message_user(request, text % skipped, messages.WARNING)

    def _log_replay(
        self, request: HttpRequest, parked: ParkedEvent, message: str
    ) -> None:
        self.add_log_entry(request, CHANGE, str(parked), message, obj=parked)

    def _report_delivered(self, request: HttpRequest, delivered: list[str]) -> None:
        if len(delivered) > _MAX_MESSAGES:
            text = _("%d parked events were delivered.") % len(delivered)
            self.message_user(request, text, messages.SUCCESS)
            return
        for parked in delivered:
            text = _("%s was delivered.") % parked
            self.message_user(request, text, messages.SUCCESS)


def _error_column(display: ParkedDisplay) -> Callable[[ParkedEvent], str]:
    @admin.display(description=_("error"))
    def error(parked: ParkedEvent) -> str:
        line = " ".join(display.mask(parked)(parked.error).split())
        return line if len(line) <= _MAX_ERROR else f"{line[:_MAX_ERROR]}…"

    return error


def _error_text(error: BaseException, text: str) -> str:
    """Return the message for an error of a replay, given its masked description."""
    if isinstance(error, NotConnected):
        return (
            _(
                "%s. The event stays parked. If the receiver was renamed or removed,"
                " connect it again or delete the parked event."
            )
            % error
        )
    if isinstance(error, AmbiguousReceiver):
        return _("%s. The event stays parked.") % error
    return truncate(text).text
