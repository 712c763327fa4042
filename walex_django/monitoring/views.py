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

from . import health as judge
from . import timed_inspection

_NOT_KEPT = {"Cache-Control": "no-store"}
# What is wrong may quote them, and anybody may read this.
_WRONG_SETTINGS = "The settings are wrong. Run: python manage.py check"


@login_not_required
@require_safe
def health(
    request: HttpRequest,
    *,
    max_lag: int | str | None = None,
    max_age: timedelta | str | None = None,
) -> JsonResponse:
    """
    Answer with status 200 if the streams do what they should, and with 503 if not.

    ``?stream=NAME`` chooses one, and may be repeated. What is said may be read by
    anybody: states and numbers, nothing of servers and users.

    Args:
        request: GET or HEAD.
        max_lag: log that may be not done, in bytes or such as ``"1GB"``.
        max_age: how long a change may wait, such as ``"60s"``.
    """
    names = request.GET.getlist("stream")
    try:
        allowed = _limits(max_lag, max_age)
        known = get_configs()
        if strange := [name for name in names if name not in known]:
            return _failing(f"There is no stream {strange[0]!r}.", status=404)
        chosen = [get_config(name) for name in dict.fromkeys(names or known)]
        overview = timed_inspection.inspect_all(chosen, diagnose=False)
        told = judge.verdict(overview.streams, **allowed)
    except ImproperlyConfigured:
        return _failing(_WRONG_SETTINGS)
    except ValueError as error:
        return _failing(f"The limits are wrong: {error}.")
    return _answer(told, status=200 if told["status"] == "ok" else 503)


def _limits(
    max_lag: int | str | None, max_age: timedelta | str | None
) -> dict[str, Any]:
    if isinstance(max_lag, str):
        max_lag = units.parse_size(max_lag)
    if isinstance(max_age, str):
        max_age = units.parse_age(max_age)
    return {"max_lag": max_lag, "max_age": max_age}


def _failing(reason: str, *, status: int = 503) -> JsonResponse:
    return _answer({"status": "failing", "streams": {}, "reason": reason}, status)


def _answer(told: dict[str, Any], status: int) -> JsonResponse:
    return JsonResponse(told, status=status, headers=_NOT_KEPT)


@login_not_required
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """
    Answer with what servers and listeners tell of all streams, for Prometheus.

    Args:
        request: GET or HEAD.
    """
    try:
        from .metrics import StatusCollector, exposition
    except ImproperlyConfigured as error:
        return _text(str(error), status=501)
    try:
        collector = StatusCollector(get_configs().values())
        body, kind = exposition(collector, request.headers.get("Accept", ""))
    except ImproperlyConfigured:
        return _text(_WRONG_SETTINGS, status=503)
    return HttpResponse(body, content_type=kind, headers=_NOT_KEPT)


def _text(text: str, *, status: int) -> HttpResponse:
    return HttpResponse(
        f"{text}\n", "text/plain; charset=utf-8", status=status, headers=_NOT_KEPT
    )
