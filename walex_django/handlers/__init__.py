"""Handlers: functions that receive the events of a transaction as a list."""

from __future__ import annotations

from .registry import on_delete, on_event, on_insert, on_truncate, on_update

__all__ = ["on_delete", "on_event", "on_insert", "on_truncate", "on_update"]
