"""Views for load balancers, uptime probes and Prometheus."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from walex_django import units
from walex_django.conf.configs import get_config, get_configs

from . import timed_inspection
from .health import verdict

_NO_STORE = {"Cache-Control": "no-store"}
# The problems themselves may quote settings, and these views require no login.
_INVALID_SETTINGS = "The settings are invalid. Run: python manage.py check"


@login_not_required
@require_safe
def health(
    request: HttpRequest,
    *,
    max_lag: int | str | None = None,
    max_age: timedelta | str | None = None,
    max_parked: int | str | None = None,
) -> JsonResponse:
    """
    Respond with status 200 if the streams are healthy, and with 503 if not.

    ``?stream=NAME`` selects one stream, and may be repeated. ``?max_parked=N`` takes
    precedence over the argument of that name. Anyone may read the
    response: it contains states and numbers, and nothing about servers and users.

    Args:
        request: A GET or HEAD request.
        max_lag: The maximum of unprocessed WAL, in bytes or such as ``"1GB"``.
        max_age: The maximum time that a change may wait, such as ``"60s"``.
        max_parked: The maximum number of parked receiver calls.
    """
    names = request.GET.getlist("stream")
    try:
        max_parked = request.GET.get("max_parked", max_parked)
        limits = _limits(max_lag, max_age, max_parked)
        known = get_configs()
        if unknown := [name for name in names if name not in known]:
            return _failing(f"Unknown stream: {unknown[0]!r}.", status=404)
        configs = [get_config(name) for name in dict.fromkeys(names or known)]
        overview = timed_inspection.inspect_all(configs, diagnose=False)
        result = verdict(overview.streams, **limits)
    except ImproperlyConfigured:
        return _failing(_INVALID_SETTINGS)
    except ValueError as error:
        return _failing(f"Invalid limit: {error}.")
    return _json(result, status=200 if result["status"] == "ok" else 503)


def _limits(
    max_lag: int | str | None,
    max_age: timedelta | str | None,
    max_parked: int | str | None,
) -> dict[str, Any]:
    if isinstance(max_lag, str):
        max_lag = units.parse_size(max_lag)
    if isinstance(max_age, str):
        max_age = units.parse_age(max_age)
    if isinstance(max_parked, str):
        max_parked = units.parse_count(max_parked)
    return {"max_lag": max_lag, "max_age": max_age, "max_parked": max_parked}


def _failing(reason: str, *, status: int = 503) -> JsonResponse:
    return _json({"status": "failing", "streams": {}, "reason": reason}, status)


def _json(data: dict[str, Any], status: int) -> JsonResponse:
    return JsonResponse(data, status=status, headers=_NO_STORE)


@login_not_required
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """
    Respond with the status of all streams as metrics for Prometheus.

    The metrics come from the streams' servers and from the listeners' reports.

    Args:
        request: A GET or HEAD request.
    """
    try:
        from .metrics import StatusCollector, exposition
    except ImproperlyConfigured as error:
        return _text(str(error), status=501)
    try:
        collector = StatusCollector(get_configs().values())
        body, content_type = exposition(collector, request.headers.get("Accept", ""))
    except ImproperlyConfigured:
        return _text(_INVALID_SETTINGS, status=503)
    return HttpResponse(body, content_type=content_type, headers=_NO_STORE)


def _text(text: str, *, status: int) -> HttpResponse:
    return HttpResponse(
        f"{text}\n", "text/plain; charset=utf-8", status=status, headers=_NO_STORE
    )
