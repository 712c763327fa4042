"""
Messages on their way through ``MESSAGE_MIDDLEWARE``.

Source: WalEx, its option ``message_middleware``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, get_ident

from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import Message

_MOST = 1000  # messages that wait to be taken


class MiddlewareFailed(Exception):
    """The middleware raised; the cause says what."""


class StreamEnded(Exception):
    """The connection whose message it is has ended: the message will come again."""


class MiddlewarePipe:
    """
    Gives messages to the middleware, and takes what it delivers.

    Args:
        middleware: called with a message and `deliver`.
        wake: makes the thread that reads look here.

    Attributes:
        expected: of what was given to the middleware, where the last transaction ends;
            nothing behind the last delivered one may be acknowledged.
    """

    def __init__(
        self, middleware: Callable[..., object], wake: Callable[[], None]
    ) -> None:
        self.expected = Lsn(0)
        self._middleware = middleware
        self._wake = wake
        self._reader = get_ident()
        self._delivered: deque[Message] = deque()
        self._room = Condition()
        self._closed = False

    def expect(self, end_lsn: Lsn) -> None:
        """A transaction that ends there is about to be passed on."""
        self.expected = max(self.expected, end_lsn)

    def pass_on(self, message: Message) -> None:
        """
        Give a message to the middleware.

        Raises:
            MiddlewareFailed: it raised.
        """
        try:
            self._middleware(message, self.deliver)
        except Exception as error:
            raise MiddlewareFailed(
                f"MESSAGE_MIDDLEWARE failed at {type(message).__name__}"
            ) from error

    def deliver(self, message: Message) -> None:
        """
        Let a message go on. May be called from any thread, in the order of the stream.

        Waits in other threads than the stream's while too many are not taken yet.

        Args:
            message: as the middleware was given it, or its equal.

        Raises:
            StreamEnded: the connection is gone, and the message will come again.
        """
        is_reader = get_ident() == self._reader
        with self._room:
            if not is_reader:
                self._room.wait_for(lambda: self._closed or self._has_room())
            if self._closed:
                raise StreamEnded("The stream has ended: its messages come again.")
            is_first = not self._delivered
            self._delivered.append(message)
        # The reader itself looks when the middleware has returned.
        if is_first and not is_reader:
            self._wake()

    def next(self) -> Message | None:
        """Return the next message that was delivered, if there is one."""
        with self._room:
            if not self._delivered:
                return None
            message = self._delivered.popleft()
            self._room.notify_all()
            return message

    def close(self) -> None:
        """Take nothing more; who waits to deliver is told."""
        with self._room:
            self._closed = True
            self._room.notify_all()

    def _has_room(self) -> bool:
        return len(self._delivered) < _MOST
