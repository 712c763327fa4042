"""The admin under a strict content security policy."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path

POLICY = "default-src 'self'"
"""Forbids inline styles, inline scripts and other origins."""

urlpatterns = [path("admin/", admin.site.urls)]

GetResponse = Callable[[HttpRequest], HttpResponse]


def strict_csp(get_response: GetResponse) -> GetResponse:
    """Middleware that sends the policy with each response."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond
