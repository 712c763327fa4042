"""
The signals of a stream.

Those of a table's changes are sent with ``sender`` (the concrete model, `None` for a
table without one), ``event`` and ``stream`` (its name in ``WALEX``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from asgiref.sync import async_to_sync
from django.apps import apps
from django.db.models import Model
from django.dispatch import Signal

Receiver: TypeAlias = Callable[..., Any]


class ChangeSignal(Signal):
    """
    A signal whose senders are models.

    A model may be named (``sender="shop.Order"``) before it is loaded; a proxy stands
    for its concrete model, under which changes arrive.
    """

    def connect(  # type: ignore[override]
        self,
        receiver: Receiver,
        sender: type[Model] | str | None = None,
        weak: bool = True,
        dispatch_uid: Any = None,
    ) -> None:
        """
        Connect a receiver, as `django.dispatch.Signal.connect` does.

        Args:
            receiver: called with keyword arguments; may be ``async``.
            sender: a model, its label, or `None` for all tables.
            weak: let go of the receiver when nothing else refers to it.
            dispatch_uid: of several receivers with the same one, only the first counts.
        """

        def connect(model: Any) -> None:
            Signal.connect(self, receiver, _concrete(model), weak, dispatch_uid)

        if isinstance(sender, str):
            apps.lazy_model_operation(connect, _key(sender))
        else:
            connect(sender)

    def disconnect(  # type: ignore[override]
        self,
        receiver: Receiver | None = None,
        sender: type[Model] | str | None = None,
        dispatch_uid: Any = None,
    ) -> bool:
        """Disconnect a receiver; arguments as of `connect`. Return whether it was."""
        if isinstance(sender, str):
            sender = apps.get_model(sender)
        return super().disconnect(receiver, _concrete(sender), dispatch_uid)

    def receivers_of(self, sender: type[Model] | None) -> list[Receiver]:
        """Return those who hear of a sender, all to be called synchronously."""
        if not self.receivers:
            return []
        # Django has no public way to ask, and `send` would look them up for each row.
        synchronous, asynchronous = self._live_receivers(sender)
        return [*synchronous, *map(async_to_sync, asynchronous)]


def _concrete(model: type[Model] | None) -> Any:
    return model._meta.concrete_model if isinstance(model, type) else model


def _key(label: str) -> tuple[str, str]:
    app_label, _, name = label.partition(".")
    return app_label, name.lower()


post_db_insert = ChangeSignal()
"""A row was inserted."""

post_db_update = ChangeSignal()
"""A row was updated."""

post_db_delete = ChangeSignal()
"""A row was deleted."""

post_db_truncate = ChangeSignal()
"""A table was emptied by TRUNCATE."""

post_db_change = ChangeSignal()
"""Any of these, after the receivers of the signal above."""

post_db_transaction = ChangeSignal()
"""
A transaction, after the receivers of its rows.

Sent with ``events`` (a list of at most ``MAX_BATCH``), ``last`` (whether they are the
transaction's last) and ``stream``; the sender is `None`.
"""

post_db_message = ChangeSignal()
"""
A logical message that `MESSAGES` asks for.

Sent with ``message`` (it has ``prefix``, ``content``, ``transactional``, ``lsn``) and
``stream``; the sender is `None`.
"""

ALL = (
    post_db_insert,
    post_db_update,
    post_db_delete,
    post_db_truncate,
    post_db_change,
    post_db_transaction,
    post_db_message,
)
