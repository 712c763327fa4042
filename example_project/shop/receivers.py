"""
The shop's receivers of database changes.

An event may be delivered twice, for example after a crash. It then has the same id, and
the unique ``event_id`` columns make the second delivery harmless.
"""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.db import transaction
from django.db.models import F

from walex_django import Event, EventType

from .models import Order, OrderHistory, OrderItem, Product, StockMovement

PRICES = "shop:prices"


def record_history(sender: type[Order], event: Event, **kwargs: Any) -> None:
    """Record the status changes of an order."""
    order: Any = event.instance
    if order is None:  # TRUNCATE
        return
    was = now = ""
    if event.type is EventType.INSERT:
        now = order.status
    elif event.type is EventType.UPDATE:
        # The table has REPLICA IDENTITY FULL, so the old values are known.
        if not event.changes or "status" not in event.changes:
            return
        was, now = event.changes["status"]
    else:
        was = order.status
    OrderHistory.objects.get_or_create(
        event_id=event.id,
        defaults={"order_id": order.pk, "was": was, "now": now, "at": event.timestamp},
    )


def clear_price_cache(sender: type[Product], event: Event, **kwargs: Any) -> None:
    """Clear the cached price list, so that the next visitor gets current prices."""
    cache.delete(PRICES)


def move_stock(sender: type[OrderItem], event: Event, **kwargs: Any) -> None:
    """Take the ordered quantity from stock, and put back what is no longer ordered."""
    new: Any = event.instance if event.type is not EventType.DELETE else None
    old: Any = event.old_instance
    moves = [(new, -1), (old, +1)]
    for number, (item, sign) in enumerate(moves):
        if item is not None:
            _move(f"{event.id}/{number}", item.product_id, sign * item.quantity)


def _move(event_id: str, product_id: int, quantity: int) -> None:
    with transaction.atomic():
        if not Product.objects.filter(pk=product_id).exists():
            return
        _, first_time = StockMovement.objects.get_or_create(
            event_id=event_id,
            defaults={"product_id": product_id, "quantity": quantity},
        )
        if first_time:
            Product.objects.filter(pk=product_id).update(stock=F("stock") + quantity)
