"""Models of tables that tests create, alter and drop."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Town(models.Model):
    """Has a primary key and columns for other keys."""

    name = models.TextField()
    code = models.TextField()
    district = models.IntegerField()

    class Meta:
        managed = False
        db_table = 'atlas"."town'


class Berth(models.Model):
    """Has a key of two columns that are neither first nor adjacent."""

    pk = models.CompositePrimaryKey("row", "number")
    number = models.IntegerField()
    guest = models.TextField()
    row = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."berth'


class Letter(models.Model):
    """Has long values of several types."""

    code = models.TextField()
    story = models.TextField()
    notes = models.JSONField(null=True)
    tags = ArrayField(models.TextField(), null=True)
    seal = models.BinaryField(null=True)

    class Meta:
        managed = False
        db_table = 'atlas"."letter'


class Place(models.Model):
    """Has a table that tests alter."""

    name = models.TextField()
    size = models.IntegerField(null=True)

    class Meta:
        managed = False
        db_table = 'atlas"."place'


class Harbour(models.Model):
    """Has another table that tests alter."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."harbour'


class Reading(models.Model):
    """Has a partitioned table."""

    id = models.IntegerField()
    area = models.IntegerField()
    pk = models.CompositePrimaryKey("id", "area")
    value = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."reading'


class NearReading(models.Model):
    """A partition with its own model."""

    id = models.IntegerField()
    area = models.IntegerField()
    pk = models.CompositePrimaryKey("id", "area")
    value = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."reading_near'


class Isle(models.Model):
    """Has child tables by INHERITS."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."isle'


class Volcano(models.Model):
    """A child table of `Isle` with its own model."""

    name = models.TextField()
    height = models.IntegerField()

    class Meta:
        managed = False
        db_table = 'atlas"."volcano'


class Circle(models.Model):
    """Has a generated column."""

    radius = models.IntegerField()
    area = models.GeneratedField(
        expression=models.F("radius") * models.F("radius"),
        output_field=models.IntegerField(),
        db_persist=True,
    )

    class Meta:
        managed = False
        db_table = 'atlas"."circle'


class Select(models.Model):
    """Has names that are keywords or look like other syntax."""

    id = models.IntegerField(primary_key=True, db_column="user")
    table = models.TextField(db_column="Select")
    lower = models.TextField(db_column="select")
    dotted = models.TextField(db_column="a.b c")
    uni = models.TextField(db_column="größe 🦉")

    class Meta:
        managed = False
        db_table = 'atlas"."Sélect Ünique'


class Dotted(models.Model):
    """Has a table with a dot and a quote in its name."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."do.t""ted'


class Twin(models.Model):
    """Has a table with the same name as `OtherTwin`, in another schema."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."twin'


class OtherTwin(models.Model):
    """Has a table with the same name as `Twin`, in another schema."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'Atlas.2"."twin'


class LongName(models.Model):
    """Has table and column names of the maximum length."""

    value = models.TextField(db_column="c" * 63)

    class Meta:
        managed = False
        db_table = f'atlas"."{"t" * 63}'
