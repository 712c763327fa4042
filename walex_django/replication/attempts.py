"""
Connection attempts that show the SQLSTATE with which a server rejects them.

libpq reports a rejected attempt as text, in the server's language. With
``PQERRORS_SQLSTATE``, that text is the SQLSTATE.

Source: libpq, "PQsetErrorVerbosity"; psycopg, ``PGconn.pgconn_ptr``.
"""

from __future__ import annotations

import ctypes
import re
import selectors
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, PollingStatus
from psycopg.pq.misc import find_libpq_full_path

CANNOT_CONNECT_NOW = "57P03"
"""The server is starting or stopping."""

_TRANSIENT = (
    "53",  # insufficient resources: connections, memory, disk space
    *("57P01", "57P02", CANNOT_CONNECT_NOW),
)

_SQLSTATE_ONLY = 3  # PQERRORS_SQLSTATE

_SQLSTATE = re.compile(r":\s+([0-9A-Z]{5})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    The outcome of a connection attempt.

    Attributes:
        succeeded: Whether the server accepted the connection.
        sqlstates: The SQLSTATEs with which servers rejected it; several if there are
            several hosts, and none if it failed otherwise.
    """

    succeeded: bool = False
    sqlstates: tuple[str, ...] = ()

    @property
    def may_succeed_later(self) -> bool:
        """Whether a server has rejected it for a reason that passes."""
        return any(state.startswith(_TRANSIENT) for state in self.sqlstates)


def attempt(parameters: Mapping[str, Any], *, timeout: float) -> Attempt:
    """
    Connect, and disconnect at once.

    `PGconn.ping` would block all threads while it waits.

    Args:
        parameters: libpq's parameters.
        timeout: Seconds after which the attempt is given up.
    """
    try:
        conninfo = make_conninfo("", **parameters).encode()
        pgconn: Any = PGconn.connect_start(conninfo)
    except psycopg.Error:
        return Attempt()
    try:
        if set_verbosity := _set_verbosity():
            set_verbosity(pgconn.pgconn_ptr, _SQLSTATE_ONLY)
        succeeded = _finish(pgconn, time.monotonic() + timeout)
        message = pgconn.error_message.decode(errors="replace")
    except psycopg.Error:
        return Attempt()
    finally:
        pgconn.finish()
    return Attempt(succeeded, tuple(_SQLSTATE.findall(message)))


def _finish(pgconn: Any, deadline: float) -> bool:
    status = PollingStatus.WRITING
    while status not in {PollingStatus.OK, PollingStatus.FAILED}:
        reads = status == PollingStatus.READING
        # The socket changes when libpq tries the next address.
        with selectors.DefaultSelector() as selector:
            selector.register(
                pgconn.socket, selectors.EVENT_READ if reads else selectors.EVENT_WRITE
            )
            if not selector.select(max(0, deadline - time.monotonic())):
                return False
        status = pgconn.connect_poll()
    return status == PollingStatus.OK


@cache
def _set_verbosity() -> Any:
    """Return ``PQsetErrorVerbosity`` of psycopg's libpq, or `None`."""
    module = sys.modules[PGconn.__module__]
    # The C module's file also resolves the symbols of the libpq that it is linked to.
    is_python = psycopg.pq.__impl__ == "python"
    path = find_libpq_full_path() if is_python else module.__file__
    try:
        function = ctypes.CDLL(path).PQsetErrorVerbosity if path else None
    except (OSError, AttributeError):
        return None
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_int]
        function.restype = ctypes.c_int
    return function


def address(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """
    Return parameters that lead to a connection's server again, without a password.

    An attempt with these ends before authentication succeeds, unless the server
    requires none. A server that is stopping rejects it before that.

    Args:
        connection: An open connection.
    """
    info = connection.info
    parameters: dict[str, Any] = info.get_parameters()
    for key in ("replication", "options", "target_session_attrs", "hostaddr"):
        parameters.pop(key, None)
    # Of several hosts, only this one counts.
    parameters.update(host=info.host, port=info.port, password="")
    if info.hostaddr:
        parameters["hostaddr"] = info.hostaddr
    return parameters


def is_stopping(parameters: Mapping[str, Any], *, timeout: float) -> bool:
    """
    Return whether a server rejects connections because it is starting or stopping.

    Args:
        parameters: See `address`.
        timeout: Seconds to wait for the server.
    """
    return CANNOT_CONNECT_NOW in attempt(parameters, timeout=timeout).sqlstates
