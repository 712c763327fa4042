from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class Customer(models.Model):
    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)
    preferences = models.JSONField(default=dict, blank=True)
    joined_on = models.DateField(default=timezone.localdate)

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.IntegerField(default=0)
    tags = ArrayField(models.CharField(max_length=30), default=list, blank=True)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    class Status(models.TextChoices):
        PLACED = "placed"
        PAID = "paid"
        SHIPPED = "shipped"
        CANCELLED = "cancelled"

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="orders")
    status = models.CharField(
        max_length=20, choices=Status.choices, default=Status.PLACED
    )
    placed_at = models.DateTimeField(default=timezone.now)
    note = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"Order {self.pk}"


class OrderItem(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="items")
    product = models.ForeignKey(Product, models.PROTECT)
    quantity = models.PositiveIntegerField(default=1)

    def __str__(self) -> str:
        return f"{self.quantity} × {self.product_id}"


class OrderHistory(models.Model):
    """The status changes of each order. Written by a receiver."""

    # No foreign key: the history outlives the order.
    order_id = models.BigIntegerField(db_index=True)
    event_id = models.CharField(max_length=50, unique=True)
    was = models.CharField(max_length=20, blank=True)
    now = models.CharField(max_length=20, blank=True)
    at = models.DateTimeField()

    class Meta:
        ordering = ["at", "id"]
        verbose_name_plural = "order histories"

    def __str__(self) -> str:
        return f"Order {self.order_id}: {self.was or 'new'} → {self.now or 'deleted'}"


class StockMovement(models.Model):
    """A quantity taken from stock or put back. Written by a receiver."""

    product = models.ForeignKey(Product, models.CASCADE)
    event_id = models.CharField(max_length=50, unique=True)
    quantity = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.quantity:+} of {self.product_id}"
