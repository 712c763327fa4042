"""What the admin's pages share."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.http import HttpRequest


class ReadOnlyAdmin(admin.ModelAdmin):
    """Pages of what nobody adds or changes by hand, with actions of their own."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: D102
        return False

    def has_change_permission(  # noqa: D102
        self, request: HttpRequest, obj: Any = None
    ) -> bool:
        return False

    def page(self, request: HttpRequest, title: str) -> dict[str, Any]:
        """Return what each page of the admin is rendered with."""
        # So admin's templates find out which site they are of.
        request.current_app = self.admin_site.name
        site = self.admin_site.each_context(request)
        return {**site, "title": title, "opts": self.opts}

    def note(
        self,
        request: HttpRequest,
        flag: int,
        what: str,
        message: str,
        *,
        of: Model | None = None,
    ) -> None:
        """
        Write an entry into the admin's log.

        Args:
            request: of who did it.
            flag: of `LogEntry`.
            what: it was done to, as the log shows it.
            message: what was done.
            of: the row that it was done to, if it is one.
        """
        assert request.user.pk is not None
        type = ContentType.objects.get_for_model(self.model, for_concrete_model=False)
        LogEntry.objects.create(
            user_id=request.user.pk,
            content_type=type,
            object_id=str(of.pk) if of else None,
            object_repr=what[:200],
            action_flag=flag,
            change_message=message,
        )
