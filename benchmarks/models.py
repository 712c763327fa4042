"""The model of the benchmarks' table."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models


class BenchRow(models.Model):
    name = models.TextField()
    quantity = models.IntegerField()
    price = models.DecimalField(max_digits=10, decimal_places=2)
    active = models.BooleanField()
    created = models.DateTimeField()
    tags = ArrayField(models.TextField())
    data = models.JSONField()
    id = models.BigAutoField(primary_key=True)

    class Meta:
        db_table = "bench_row"
        managed = False
