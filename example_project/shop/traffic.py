"""Changes to the shop's tables, most of which `post_save` does not report."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg
from django.db import connection, transaction
from django.db.models import F

from .models import Customer, Order, OrderItem, Product

_NAMES = ["Ada", "Grace", "Barbara", "Katherine", "Radia", "Frances", "Adele"]
_GOODS = [("Tea", "3.50"), ("Coffee", "4.20"), ("Cup", "7.00"), ("Kettle", "29.90")]


class Scene(NamedTuple):
    """A change of the data, with a title that says how it is made."""

    title: str
    play: Callable[[], object]


def scenes(url: str) -> Iterator[Scene]:
    """
    Yield scenes forever.

    Args:
        url: The database's URL, for a session outside of Django.
    """
    yield Scene("bulk_create() of products, a customer and an order", _open_shop)
    while True:
        yield Scene("save() of a customer", _register)
        yield Scene("create() of an order, bulk_create() of its items", _order)
        yield Scene("QuerySet.update() of an order's status", _pay)
        yield Scene("raw SQL through Django's connection", _ship)
        yield Scene("a psycopg session outside of Django", lambda: _reprice(url))
        yield Scene("delete() of a customer, with a cascade", _delete_customer)


def _open_shop() -> None:
    regular = Customer(name="Edith", email="edith@example.org")
    Customer.objects.bulk_create([regular])
    Order.objects.bulk_create([Order(customer=regular, status=Order.Status.SHIPPED)])
    Product.objects.bulk_create(
        Product(name=name, price=price, stock=100, tags=["new", name.lower()])
        for name, price in _GOODS
    )


def _register() -> None:
    name = random.choice(_NAMES)
    number = random.randrange(10**9)
    Customer(
        name=name,
        email=f"{name.lower()}{number}@example.org",
        preferences={"newsletter": random.random() < 0.5},
    ).save()


def _order() -> None:
    customer = Customer.objects.latest("pk")
    products = Product.objects.order_by("?")[:2]
    with transaction.atomic():
        order = Order.objects.create(customer=customer)
        OrderItem.objects.bulk_create(
            OrderItem(order=order, product=product, quantity=random.randint(1, 3))
            for product in products
        )


def _pay() -> None:
    last = Order.objects.order_by("-pk")[:1]
    Order.objects.filter(pk__in=last.values("pk")).update(status=Order.Status.PAID)


def _ship() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE shop_order SET status = 'shipped', note = 'by courier'"
            " WHERE status = 'paid'"
        )


def _reprice(url: str) -> None:
    with psycopg.connect(url) as session:
        session.execute(
            "UPDATE shop_product SET price = price + 0.10 WHERE id ="
            " (SELECT id FROM shop_product ORDER BY random() LIMIT 1)"
        )


def _delete_customer() -> None:
    Customer.objects.latest("pk").delete()
    # Restock the products that are running low.
    Product.objects.filter(stock__lt=50).update(stock=F("stock") + 100)
