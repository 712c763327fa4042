"""Loggers whose records carry the stream that they are about."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

_fields: ContextVar[Mapping[str, object]] = ContextVar(
    "walex_django_log", default=MappingProxyType({})
)


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A logger adapter that adds the fields of `about` to ``extra``."""

    def process(  # noqa: D102
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        # The fields of the call itself take precedence.
        kwargs["extra"] = {**_fields.get(), **(kwargs.get("extra") or {})}
        return msg, kwargs


def logger(name: str) -> Logger:
    """Return the logger of a module."""
    return Logger(logging.getLogger(name), {})


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Add fields to all records that this thread logs in the ``with`` block."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)
