"""The base class of the admin pages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.http import HttpRequest


class ReadOnlyAdmin(admin.ModelAdmin):
    """Admin pages without adding and changing, but with actions of their own."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: D102
        return False

    def has_change_permission(  # noqa: D102
        self, request: HttpRequest, obj: Any = None
    ) -> bool:
        return False

    def page(self, request: HttpRequest, title: str) -> dict[str, Any]:
        """Return the context that every admin page needs."""
        # Lets the admin's templates reverse URLs of this site.
        request.current_app = self.admin_site.name
        site = self.admin_site.each_context(request)
        return {**site, "title": title, "opts": self.opts}

    def add_log_entry(
        self,
        request: HttpRequest,
        flag: int,
        name: str,
        message: str,
        *,
        obj: Model | None = None,
    ) -> None:
        """
        Add an entry to the admin's log.

        Args:
            request: The request of the user who acts.
            flag: The action flag of the `LogEntry`.
            name: The object's name, as the log shows it.
            message: A description of the action.
            obj: The object, if it is a row.
        """
        assert request.user.pk is not None
        type = ContentType.objects.get_for_model(self.model, for_concrete_model=False)
        LogEntry.objects.create(
            user_id=request.user.pk,
            content_type=type,
            object_id=str(obj.pk) if obj else None,
            object_repr=name[:200],
            action_flag=flag,
            change_message=message,
        )
