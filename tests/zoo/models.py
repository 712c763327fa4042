"""Models with different kinds of fields and tables."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, HStoreField
from django.db import models


class Temperature:
    """Degrees Celsius, stored as an integer."""

    def __init__(self, degrees: int) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Temperature) and other.degrees == self.degrees

    def __hash__(self) -> int:
        return hash(self.degrees)

    def __repr__(self) -> str:
        return f"{self.degrees} °C"


class TemperatureField(models.IntegerField):
    def from_db_value(self, value: int | None, *context: Any) -> Temperature | None:
        return None if value is None else Temperature(value)

    def get_prep_value(self, value: Any) -> Any:
        return value.degrees if isinstance(value, Temperature) else value


class Animal(models.Model):
    name = models.CharField(max_length=100)
    born_at = models.DateTimeField(null=True)
    fed_on = models.DateField(null=True)
    weight = models.DecimalField(max_digits=12, decimal_places=3, null=True)
    speed = models.FloatField(null=True)
    tame = models.BooleanField(default=False)
    tags = ArrayField(models.CharField(max_length=50), default=list)
    habits = models.JSONField(default=dict, null=True)
    chip = models.UUIDField(null=True)
    photo = models.BinaryField(null=True)
    gestation = models.DurationField(null=True)
    asleep = DateTimeRangeField(null=True)
    names_abroad = HStoreField(null=True)
    comfort = TemperatureField(null=True)
    story = models.TextField(default="")
    keepers: models.ManyToManyField[Keeper, Any] = models.ManyToManyField(
        "Keeper", related_name="animals"
    )


class TameAnimal(Animal):
    class Meta:
        proxy = True


class Keeper(models.Model):
    name = models.CharField(max_length=100)


class Building(models.Model):
    name = models.CharField(max_length=100)


class Aviary(Building):
    """Has a column with the same name as one of its parent."""

    height = models.IntegerField()
    label = models.CharField(max_length=20, default="", db_column="name")


class Visit(models.Model):
    """Has a table with an extra column, another order, and no column ``missing``."""

    visitor = models.CharField(max_length=100)
    paid = models.IntegerField(db_column="price paid")
    missing = models.TextField()

    class Meta:
        managed = False
        db_table = "zoo_visit"


class AuditLog(models.Model):
    """Has a table in a schema outside the search path."""

    message = models.TextField()

    class Meta:
        managed = False
        db_table = 'legacy"."audit_log'


class OldMascot(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        swappable = "ZOO_MASCOT_MODEL"


class Mascot(models.Model):
    """Replaces `OldMascot` and uses its table."""

    name = models.CharField(max_length=100)

    class Meta:
        db_table = "zoo_oldmascot"


class Effect(models.Model):
    """A receiver's effect for an event; only some tests create its table."""

    event_id = models.CharField(max_length=100)
    label = models.TextField()

    class Meta:
        managed = False
        db_table = "zoo_effect"
