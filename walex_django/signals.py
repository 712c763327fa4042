"""
The signals of a stream.

Those of a table's changes are sent with ``sender`` (the concrete model, `None` for a
table without one), ``event`` and ``stream`` (its name in ``WALEX``).
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Self, TypeAlias

from asgiref.sync import async_to_sync
from django.apps import apps
from django.db.models import Model
from django.db.models.utils import make_model_tuple
from django.dispatch import Signal

Receiver: TypeAlias = Callable[..., Any]


class StreamSignal(Signal):
    """
    A signal without senders.

    Args:
        name: of the signal.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        # Django knows no streams: who names one is connected to a signal of its own.
        self._of_stream: dict[str, Self] = {}

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def connect(
        self,
        receiver: Receiver,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        *,
        stream: str | None = None,
    ) -> None:
        """
        Connect a receiver, as `django.dispatch.Signal.connect` does.

        Args:
            receiver: called with keyword arguments; may be ``async``.
            sender: `None`.
            weak: let go of the receiver when nothing else refers to it.
            dispatch_uid: of several receivers with the same one, only the first counts.
            stream: the only one that it is to hear of.

        Raises:
            ValueError: there is a sender, or the receiver takes no further keywords.
        """
        if sender is not None:
            raise ValueError(f"{self.name} has no senders: connect without one.")
        if stream is not None:
            self._for(stream).connect(receiver, None, weak, dispatch_uid)
            return
        _check(receiver)
        super().connect(receiver, None, weak, dispatch_uid)

    def disconnect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        dispatch_uid: str | None = None,
        *,
        stream: str | None = None,
    ) -> bool:
        """Disconnect a receiver; arguments as of `connect`. Return whether it was."""
        if stream is not None:
            return self._for(stream).disconnect(receiver, sender, dispatch_uid)
        return super().disconnect(receiver, sender, dispatch_uid)

    def count(self) -> int:
        """Return the number of receivers that are still alive."""
        return sum(
            not isinstance(receiver, weakref.ReferenceType) or receiver() is not None
            for _, receiver, *_ in self.receivers
        ) + sum(signal.count() for signal in self._of_stream.values())

    def streams(self) -> list[str]:
        """Return the streams that receivers name."""
        return [name for name, signal in self._of_stream.items() if signal.count()]

    def receivers_of(
        self, sender: type[Model] | None, stream: str | None = None
    ) -> list[Receiver]:
        """
        Return those who hear of a sender, all to be called synchronously.

        Args:
            sender: a model, or `None`.
            stream: whose changes they are, or `None`: those who name one do not count.
        """
        found: list[Receiver] = []
        if self.receivers:
            # Django has no public way to ask, and `send` would ask for each row.
            synchronous, asynchronous = self._live_receivers(sender)
            found = [*synchronous, *map(async_to_sync, asynchronous)]
        if stream in self._of_stream:
            found += self._of_stream[stream].receivers_of(sender)
        return found

    def _for(self, stream: str) -> Self:
        return self._of_stream.setdefault(stream, type(self)(self.name))


class ChangeSignal(StreamSignal):
    """
    A signal whose senders are models.

    A model may be named (``sender="shop.Order"``) before it is loaded. Who is connected
    to a proxy hears of its concrete model, under which changes arrive.
    """

    def connect(  # type: ignore[override]
        self,
        receiver: Receiver,
        sender: type[Model] | str | None = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        *,
        stream: str | None = None,
    ) -> None:
        """
        Connect a receiver, as `StreamSignal.connect` does.

        Args:
            sender: a model, its label, or `None` for all tables.

        Raises:
            ValueError: the label is none, or the receiver takes no further keywords.
        """
        if stream is not None:
            self._for(stream).connect(receiver, sender, weak, dispatch_uid)
            return
        _check(receiver)
        # A partial of this very method: Django's checks know it, and name the receiver
        # where an app has no such model.
        connect = partial(
            super(StreamSignal, self).connect,
            receiver,
            weak=weak,
            dispatch_uid=dispatch_uid,
        )
        if isinstance(sender, str):
            apps.lazy_model_operation(connect, make_model_tuple(sender))
        else:
            connect(sender)

    def disconnect(  # type: ignore[override]
        self,
        receiver: Receiver | None = None,
        sender: type[Model] | str | None = None,
        dispatch_uid: Any = None,
        *,
        stream: str | None = None,
    ) -> bool:
        """Disconnect a receiver; arguments as of `connect`. Return whether it was."""
        if isinstance(sender, str):
            sender = apps.get_model(sender)
        return super().disconnect(receiver, sender, dispatch_uid, stream=stream)

    def receivers_of(
        self, sender: type[Model] | None, stream: str | None = None
    ) -> list[Receiver]:
        """Return those who hear of a model, by itself or by one of its proxies."""
        found = super().receivers_of(sender, stream)
        if sender is None or not (self.receivers or self._of_stream):
            return found
        for proxy in _proxies(sender):
            known = [unwrapped(each) for each in found]
            found += [
                each
                for each in super().receivers_of(proxy, stream)
                if unwrapped(each) not in known
            ]
        return found


@cache
def _proxies(model: type[Model]) -> list[type[Model]]:
    return [
        each
        for each in apps.get_models()
        if each._meta.proxy and each._meta.concrete_model is model
    ]


def unwrapped(receiver: Receiver) -> Receiver:
    """Return the coroutine function that `StreamSignal.receivers_of` has wrapped."""
    function: Receiver = getattr(receiver, "awaitable", receiver)
    return function


def receiver_name(receiver: Receiver) -> str:
    """Return the dotted name of a receiver."""
    function = unwrapped(receiver)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"


def _check(receiver: Receiver) -> None:
    # Django looks under DEBUG only, and a stream would fail at its first event. And its
    # function for it has a cache, which keeps weakly held receivers alive.
    parameters = inspect.signature(receiver).parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        name = getattr(receiver, "__qualname__", repr(receiver))
        raise ValueError(f"The receiver {name} must accept **kwargs.")


post_db_insert = ChangeSignal("post_db_insert")
"""A row was inserted."""

post_db_update = ChangeSignal("post_db_update")
"""A row was updated."""

post_db_delete = ChangeSignal("post_db_delete")
"""A row was deleted."""

post_db_truncate = ChangeSignal("post_db_truncate")
"""A table was emptied by TRUNCATE."""

post_db_change = ChangeSignal("post_db_change")
"""Any of these, after the receivers of the signal above."""

post_db_transaction = StreamSignal("post_db_transaction")
"""
A transaction, after the receivers of its rows.

Sent with ``events`` (a list of at most ``MAX_BATCH``), ``last`` (whether they are the
transaction's last) and ``stream``; the sender is `None`.
"""

post_db_message = StreamSignal("post_db_message")
"""
A logical message that `MESSAGES` asks for.

Sent with ``message`` (it has ``prefix``, ``content``, ``transactional``, ``lsn``) and
``stream``; the sender is `None`.
"""

TABLE_SIGNALS = (
    post_db_insert,
    post_db_update,
    post_db_delete,
    post_db_truncate,
    post_db_change,
)
ALL: tuple[StreamSignal, ...] = (*TABLE_SIGNALS, post_db_transaction, post_db_message)
