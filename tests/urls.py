"""The admin, under the content security policy that its pages have to bear."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path

POLICY = "default-src 'self'"
"""No inline style, no inline script, and nothing from elsewhere."""

urlpatterns = [path("admin/", admin.site.urls)]

GetResponse = Callable[[HttpRequest], HttpResponse]


def strict_csp(get_response: GetResponse) -> GetResponse:
    """Middleware: send the policy with each page."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond
