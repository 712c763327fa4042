"""Django middleware that sets the context of a request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest

from .frames import enclosed, framed


class ContextMiddleware:
    """
    Attach the user, path and method of a request to the changes that it makes.

    Add it to ``MIDDLEWARE``, at any position. It supports WSGI and ASGI. Subclasses can
    override `get_context` to attach other data.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Handle a request with its context set."""
        if iscoroutinefunction(self):
            return self._acall(request)
        with framed(enclosed(partial(self.get_context, request))):
            return self.get_response(request)

    def get_context(self, request: HttpRequest) -> dict[str, Any]:
        """
        Return the context of the changes made by a request.

        This method is called before each statement that writes, in the statement's
        thread. The user is the one logged in at that time. It is not called if the
        request does not write.
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
