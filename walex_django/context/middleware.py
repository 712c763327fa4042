"""Django middleware that attaches a request's user, path and method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest

from .frames import enclosed, framed


class ContextMiddleware:
    """
    Attaches the user, the path and the method to what a request changes.

    A subclass says something else with `get_context`. For ``MIDDLEWARE``, at any place;
    works under WSGI and ASGI.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Pass the request on, with its context around."""
        if iscoroutinefunction(self):
            return self._acall(request)
        with framed(enclosed(partial(self.get_context, request))):
            return self.get_response(request)

    def get_context(self, request: HttpRequest) -> dict[str, Any]:
        """
        Return the context of a request's changes.

        Called before each statement that writes, in its thread, and never when nothing
        is written: the user is the one who is logged in by then.
        """
        user = getattr(request, "user", None)
        return {
            "user": getattr(user, "pk", None),
            "path": request.path,
            "method": request.method,
        }

    async def _acall(self, request: HttpRequest) -> Any:
        with framed(enclosed(partial(self.get_context, request))):
            return await self.get_response(request)
