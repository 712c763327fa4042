"""
The path of messages through ``MESSAGE_MIDDLEWARE``.

Source: WalEx, its option ``message_middleware``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, get_ident

from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import Message

_MAX_DELIVERED = 1000  # messages queued for the reader


class MiddlewareFailed(Exception):
    """The middleware raised an exception, which is this exception's cause."""


class StreamEnded(Exception):
    """The message's connection has ended: the server will send the message again."""


class MiddlewarePipe:
    """
    Passes messages to the middleware and queues those that it delivers.

    Args:
        middleware: A callable that takes a message and `deliver`.
        wake: A callable that makes the reading thread call `next`.

    Attributes:
        expected: The end of the last transaction that was passed to the middleware.
            Until the middleware has delivered that transaction, no position after the
            last delivered transaction may be acknowledged.
    """

    def __init__(
        self, middleware: Callable[..., object], wake: Callable[[], None]
    ) -> None:
        self.expected = Lsn(0)
        self._middleware = middleware
        self._wake = wake
        self._reader = get_ident()
        self._delivered: deque[Message] = deque()
        self._changed = Condition()
        self._closed = False

    def expect(self, end_lsn: Lsn) -> None:
        """Record that a transaction with this end is about to be passed on."""
        self.expected = max(self.expected, end_lsn)

    def pass_on(self, message: Message) -> None:
        """
        Call the middleware with a message.

        Raises:
            MiddlewareFailed: The middleware raised an exception.
        """
        try:
            self._middleware(message, self.deliver)
        except Exception as error:
            raise MiddlewareFailed(
                f"MESSAGE_MIDDLEWARE failed on {type(message).__name__}"
            ) from error

    def deliver(self, message: Message) -> None:
        """
        Deliver a message to the stream's receivers.

        May be called from any thread, in the order of the stream. In any thread but the
        stream's own, the call blocks while too many messages are queued.

        Args:
            message: The message that the middleware received, or an equal one.

        Raises:
            StreamEnded: The connection has ended, and the server will send the message
                again.
        """
        is_reader = get_ident() == self._reader
        with self._changed:
            if not is_reader:
                self._changed.wait_for(lambda: self._closed or self._has_room())
            if self._closed:
                raise StreamEnded(
                    "The connection has ended: the server will send its messages again."
                )
            is_first = not self._delivered
            self._delivered.append(message)
        # The reading thread checks the queue itself after the middleware returns.
        if is_first and not is_reader:
            self._wake()

    def next(self) -> Message | None:
        """Return the next delivered message, or `None` if the queue is empty."""
        with self._changed:
            if not self._delivered:
                return None
            message = self._delivered.popleft()
            self._changed.notify_all()
            return message

    def close(self) -> None:
        """Accept no more messages; blocked and later calls raise `StreamEnded`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._delivered) < _MAX_DELIVERED
