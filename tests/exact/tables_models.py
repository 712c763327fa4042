"""Models of tables that tests make, change and drop again."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Town(models.Model):
    """Has a key, and candidates for another."""

    name = models.TextField()
    code = models.TextField()
    district = models.IntegerField()

    class Meta:
        managed = False
        db_table = 'atlas"."town'


class Berth(models.Model):
    """Has a key of two columns, which are neither the first nor side by side."""

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
    """Its table changes under it."""

    name = models.TextField()
    size = models.IntegerField(null=True)

    class Meta:
        managed = False
        db_table = 'atlas"."place'


class Harbour(models.Model):
    """Another of the same kind."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."harbour'


class Reading(models.Model):
    """Partitioned."""

    id = models.IntegerField()
    area = models.IntegerField()
    pk = models.CompositePrimaryKey("id", "area")
    value = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."reading'


class NearReading(models.Model):
    """A partition with a model of its own."""

    id = models.IntegerField()
    area = models.IntegerField()
    pk = models.CompositePrimaryKey("id", "area")
    value = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."reading_near'


class Isle(models.Model):
    """Has heirs by INHERITS."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."isle'


class Volcano(models.Model):
    """Such an heir, with a model of its own."""

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
    """All of its names are keywords, or look like something else."""

    id = models.IntegerField(primary_key=True, db_column="user")
    table = models.TextField(db_column="Select")
    lower = models.TextField(db_column="select")
    dotted = models.TextField(db_column="a.b c")
    uni = models.TextField(db_column="größe 🦉")

    class Meta:
        managed = False
        db_table = 'atlas"."Sélect Ünique'


class Dotted(models.Model):
    """Its table has a dot in its name, and a quote."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."do.t""ted'


class Twin(models.Model):
    """A table of the same name as one of another schema."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'atlas"."twin'


class OtherTwin(models.Model):
    """The other one."""

    name = models.TextField()

    class Meta:
        managed = False
        db_table = 'Atlas.2"."twin'


class LongName(models.Model):
    """Schema, table and column have names as long as can be."""

    value = models.TextField(db_column="c" * 63)

    class Meta:
        managed = False
        db_table = f'atlas"."{"t" * 63}'
