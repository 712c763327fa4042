"""
What the shop does when its tables change, whoever changed them.

An event may come twice, for instance after a crash. Its id stays the same, and the
unique ``event_id`` columns make the second time harmless.
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
    """Keep what became of each order."""
    order: Any = event.instance
    if order is None:  # TRUNCATE
        return
    was = now = ""
    if event.type is EventType.INSERT:
        now = order.status
    elif event.type is EventType.UPDATE:
        # The table has REPLICA IDENTITY FULL, so the server tells what changed.
        if not event.changes or "status" not in event.changes:
            return
        was, now = event.changes["status"]
    else:
        was = order.status
    OrderHistory.objects.get_or_create(
        event_id=event.id,
        defaults={"order_id": order.pk, "was": was, "now": now, "at": event.timestamp},
    )


def forget_price(sender: type[Product], event: Event, **kwargs: Any) -> None:
    """Let the next visitor see the prices as they are now."""
    cache.delete(PRICES)


def move_stock(sender: type[OrderItem], event: Event, **kwargs: Any) -> None:
    """Take from stock what was ordered, put back what was not."""
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
