from __future__ import annotations

from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .models import Order, OrderHistory, Product
from .receivers import PRICES


def storefront(request: HttpRequest) -> HttpResponse:
    """Show the cached prices, the stock, the latest orders and their history."""
    prices = cache.get_or_set(
        PRICES, lambda: list(Product.objects.order_by("name").values("name", "price"))
    )
    context = {
        "prices": prices,
        "products": Product.objects.order_by("name"),
        "orders": Order.objects.select_related("customer").order_by("-pk")[:10],
        "history": OrderHistory.objects.order_by("-at", "-pk")[:20],
    }
    return render(request, "shop/storefront.html", context)


def health(request: HttpRequest) -> HttpResponse:
    """Respond with success if the database can be reached."""
    connection.ensure_connection()
    return HttpResponse("ok", content_type="text/plain")
