"""
The signals that streams send.

The signals for changes of tables are sent with ``sender`` (the concrete model, or
`None` for a table without a model), ``event`` and ``stream`` (the stream's name in
``WALEX``).
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
        name: The signal's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        # The receivers that name a stream are connected to a separate signal.
        self._by_stream: dict[str, Self] = {}

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
            receiver: A callable that accepts ``**kwargs``; it may be ``async``.
            sender: `None`.
            weak: Whether to hold only a weak reference to the receiver.
            dispatch_uid: An identifier that prevents duplicate connections.
            stream: The name of the only stream that the receiver is called for.

        Raises:
            ValueError: If there is a sender, or the receiver does not accept
                ``**kwargs``.
        """
        if sender is not None:
            raise ValueError(f"{self.name} has no senders. Connect without a sender.")
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
        """
        Disconnect a receiver.

        The arguments must be the same as in the call of `connect`.

        Returns:
            Whether the receiver was connected.
        """
        if stream is not None:
            return self._for(stream).disconnect(receiver, sender, dispatch_uid)
        return super().disconnect(receiver, sender, dispatch_uid)

    def count(self) -> int:
        """Return the number of connected receivers that still exist."""
        return sum(
            not isinstance(receiver, weakref.ReferenceType) or receiver() is not None
            for _, receiver, *_ in self.receivers
        ) + sum(signal.count() for signal in self._by_stream.values())

    def streams(self) -> list[str]:
        """Return the names of the streams that receivers were connected with."""
        return [name for name, signal in self._by_stream.items() if signal.count()]

    def receivers_of(
        self, sender: type[Model] | None, stream: str | None = None
    ) -> list[Receiver]:
        """
        Return the receivers for a sender, all as synchronous callables.

        Args:
            sender: A model, or `None`.
            stream: The stream's name. If it is `None`, receivers that were connected
                with a stream are left out.
        """
        receivers: list[Receiver] = []
        if self.receivers:
            # A private method, because `send` would look the receivers up for each row.
            synchronous, asynchronous = self._live_receivers(sender)
            receivers = [*synchronous, *map(async_to_sync, asynchronous)]
        if stream in self._by_stream:
            receivers += self._by_stream[stream].receivers_of(sender)
        return receivers

    def dispatch_uids(self, receiver: Receiver) -> list[str]:
        """Return the values of ``dispatch_uid`` that a receiver is connected with."""
        function = receiver_key(receiver)
        uids: list[str] = []
        for (key, _), connected, *_rest in self.receivers:
            if isinstance(connected, weakref.ReferenceType):
                connected = connected()  # noqa: PLW2901
            # Without a dispatch_uid, Django uses the receiver's own key.
            if receiver_key(connected) == function != key:
                uids.append(str(key))
        for signal in self._by_stream.values():
            uids += signal.dispatch_uids(receiver)
        return uids

    def _for(self, stream: str) -> Self:
        return self._by_stream.setdefault(stream, type(self)(self.name))


class ChangeSignal(StreamSignal):
    """
    A signal whose senders are models.

    A model can be named by its label (``sender="shop.Order"``) before it is loaded.
    Changes are sent with the concrete model; receivers connected to one of its proxies
    get them too.
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
            receiver: See `StreamSignal.connect`.
            sender: A model, its label, or `None` for all tables.
            weak: See `StreamSignal.connect`.
            dispatch_uid: See `StreamSignal.connect`.
            stream: See `StreamSignal.connect`.

        Raises:
            ValueError: If the label is malformed, or the receiver does not accept
                ``**kwargs``.
        """
        if stream is not None:
            self._for(stream).connect(receiver, sender, weak, dispatch_uid)
            return
        _check(receiver)
        # A partial of exactly this method: Django's check of lazy references recognizes
        # it, and names the receiver if the model does not exist.
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
        """
        Disconnect a receiver.

        The arguments must be the same as in the call of `connect`.

        Returns:
            Whether the receiver was connected.
        """
        if isinstance(sender, str):
            sender = apps.get_model(sender)
        return super().disconnect(receiver, sender, dispatch_uid, stream=stream)

    def receivers_of(
        self, sender: type[Model] | None, stream: str | None = None
    ) -> list[Receiver]:
        """Return the receivers for a model and its proxies, each of them once."""
        receivers = super().receivers_of(sender, stream)
        if sender is None or not (self.receivers or self._by_stream):
            return receivers
        for proxy in _proxies(sender):
            found = [unwrapped(receiver) for receiver in receivers]
            receivers += [
                receiver
                for receiver in super().receivers_of(proxy, stream)
                if unwrapped(receiver) not in found
            ]
        return receivers


@cache
def _proxies(model: type[Model]) -> list[type[Model]]:
    return [
        proxy
        for proxy in apps.get_models()
        if proxy._meta.proxy and proxy._meta.concrete_model is model
    ]


def unwrapped(receiver: Receiver) -> Receiver:
    """Return the receiver, or the coroutine function if `receivers_of` wrapped it."""
    function: Receiver = getattr(receiver, "awaitable", receiver)
    return function


def receiver_key(receiver: Receiver) -> object:
    """Return a key that is the same for a method each time that it is bound."""
    function: Any = unwrapped(receiver)
    # Django's own key, which is part of its lookup keys.
    if hasattr(function, "__func__"):
        return id(function.__self__), id(function.__func__)
    return id(function)


def receiver_name(receiver: Receiver) -> str:
    """Return the dotted name of a receiver; for a partial, that of its function."""
    function: Any = unwrapped(receiver)
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"


def _check(receiver: Receiver) -> None:
    # Django checks this only if DEBUG is set; otherwise, the first event would fail.
    # Its function for the check has a cache, which keeps weakly referenced receivers
    # alive.
    parameters = inspect.signature(receiver).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        name = getattr(receiver, "__qualname__", repr(receiver))
        raise ValueError(f"The receiver {name} must accept **kwargs.")


post_db_insert = ChangeSignal("post_db_insert")
"""Sent for each inserted row."""

post_db_update = ChangeSignal("post_db_update")
"""Sent for each updated row."""

post_db_delete = ChangeSignal("post_db_delete")
"""Sent for each deleted row."""

post_db_truncate = ChangeSignal("post_db_truncate")
"""Sent for each truncated table."""

post_db_change = ChangeSignal("post_db_change")
"""Sent for each of these changes, after the more specific signal."""

post_db_transaction = StreamSignal("post_db_transaction")
"""
Sent for each transaction, after the signals for its rows.

The arguments are ``events`` (a list of at most ``MAX_BATCH`` events), ``last`` (whether
this is the last list of the transaction) and ``stream``. The sender is `None`.
"""

post_db_message = StreamSignal("post_db_message")
"""
Sent for each logical message whose prefix is in ``MESSAGES``.

The arguments are ``message`` (with ``prefix``, ``content``, ``transactional`` and
``lsn``) and ``stream``. The sender is `None`.
"""

TABLE_SIGNALS = (
    post_db_insert,
    post_db_update,
    post_db_delete,
    post_db_truncate,
    post_db_change,
)
ALL: tuple[StreamSignal, ...] = (*TABLE_SIGNALS, post_db_transaction, post_db_message)
