"""Loggers, whose records tell of which stream they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

_subject: ContextVar[Mapping[str, object]] = ContextVar(
    "walex_django_log", default=MappingProxyType({})
)


class Logger(logging.LoggerAdapter[logging.Logger]):
    """Adds the fields of `about`; those of a call itself count more."""

    def process(  # noqa: D102
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**_subject.get(), **(kwargs.get("extra") or {})}
        return msg, kwargs


def logger(name: str) -> Logger:
    """Return the logger of a module, which adds what `about` says to ``extra``."""
    return Logger(logging.getLogger(name), {})


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Let all that this thread logs in the ``with`` block have these fields too."""
    token = _subject.set({**_subject.get(), **fields})
    try:
        yield
    finally:
        _subject.reset(token)
