from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings


class ShopConfig(AppConfig):
    name = "example_project.shop"
    label = "shop"

    def ready(self) -> None:
        from walex_django.signals import (
            post_db_change,
            post_db_delete,
            post_db_insert,
            post_db_update,
        )

        from . import printing, receivers
        from .models import Order, OrderItem, Product

        post_db_change.connect(receivers.record_history, sender=Order)
        post_db_change.connect(receivers.clear_price_cache, sender=Product)
        post_db_insert.connect(receivers.move_stock, sender=OrderItem)
        post_db_update.connect(receivers.move_stock, sender=OrderItem)
        post_db_delete.connect(receivers.move_stock, sender=OrderItem)
        if settings.SHOP_PRINT_EVENTS:
            post_db_change.connect(printing.print_event)
