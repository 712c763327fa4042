# ruff: noqa: DJ001 - NULL is a value of each column
"""Models with every kind of field; only this package's tests create their tables."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

from django.contrib.postgres import fields as postgres
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models.functions import Upper


class Decoder(json.JSONDecoder):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, parse_float=Decimal)


class Encoder(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        return float(o) if isinstance(o, Decimal) else super().default(o)


class Reversed(models.CharField):
    """A field whose text is reversed in the database."""

    def from_db_value(self, value: str | None, *context: Any) -> str | None:
        return None if value is None else value[::-1]

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else value[::-1]


class Typed(models.Field):
    """A column of a type that Django does not support."""

    def __init__(self, type: str = "text", **kwargs: Any) -> None:
        self.type = type
        super().__init__(**kwargs)

    def db_type(self, connection: Any) -> str:
        return self.type


class Everything(models.Model):
    id = models.BigAutoField(primary_key=True)
    small = models.SmallIntegerField(null=True)
    integer = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    positive = models.PositiveIntegerField(null=True)
    positive_small = models.PositiveSmallIntegerField(null=True)
    positive_big = models.PositiveBigIntegerField(null=True)
    float = models.FloatField(null=True)
    decimal = models.DecimalField(max_digits=20, decimal_places=5, null=True)
    boolean = models.BooleanField(null=True)
    char = models.CharField(max_length=40, null=True, db_column="an odd, Name")
    choice = models.CharField(max_length=1, choices={"a": "A", "b": "B"}, null=True)
    text = models.TextField(null=True)
    slug = models.SlugField(null=True)
    email = models.EmailField(null=True)
    url = models.URLField(null=True)
    file = models.FileField(null=True)
    path = models.FilePathField(null=True)
    date = models.DateField(null=True)
    time = models.TimeField(null=True)
    moment = models.DateTimeField(null=True)
    duration = models.DurationField(null=True)
    uuid = models.UUIDField(null=True)
    binary = models.BinaryField(null=True)
    json = models.JSONField(null=True)
    exact_json = models.JSONField(null=True, encoder=Encoder, decoder=Decoder)
    address = models.GenericIPAddressField(null=True)
    texts = postgres.ArrayField(models.TextField(null=True), null=True)
    moments = postgres.ArrayField(models.DateTimeField(null=True), null=True)
    reversed = Reversed(max_length=40, null=True)
    reversed_texts = postgres.ArrayField(Reversed(max_length=40), null=True)
    nested = postgres.ArrayField(
        postgres.ArrayField(models.DecimalField(max_digits=9, decimal_places=2)),
        null=True,
    )
    jsons = postgres.ArrayField(models.JSONField(null=True), null=True)
    integer_range = postgres.IntegerRangeField(null=True)
    big_range = postgres.BigIntegerRangeField(null=True)
    decimal_range = postgres.DecimalRangeField(null=True)
    date_range = postgres.DateRangeField(null=True)
    moment_range = postgres.DateTimeRangeField(null=True)
    ranges = postgres.ArrayField(postgres.DateRangeField(), null=True)
    pairs = postgres.HStoreField(null=True)
    many_pairs = postgres.ArrayField(postgres.HStoreField(), null=True)
    name = Typed("citext", null=True)
    names = Typed("citext[]", null=True)
    search = SearchVectorField(null=True)

    class Meta:
        managed = False


class Generated(models.Model):
    id = models.SmallAutoField(primary_key=True)
    text = models.TextField()
    upper = models.GeneratedField(
        expression=Upper("text"), output_field=models.TextField(), db_persist=True
    )

    class Meta:
        managed = False


class Country(models.Model):
    id = models.AutoField(primary_key=True)
    code = models.CharField(max_length=2, unique=True)
    number = models.UUIDField(unique=True, default=uuid.uuid4)

    class Meta:
        managed = False


class Embassy(models.Model):
    """Has foreign keys to unique columns, and a primary key that is a foreign key."""

    host = models.OneToOneField(Country, models.CASCADE, primary_key=True)
    sender = models.ForeignKey(
        Country, models.CASCADE, to_field="code", related_name="+", db_column="from"
    )
    other = models.OneToOneField(
        Country, models.CASCADE, to_field="number", related_name="+", null=True
    )

    class Meta:
        managed = False


class Ticket(models.Model):
    pk = models.CompositePrimaryKey("row", "number")
    row = models.CharField(max_length=2)
    number = models.IntegerField()
    taken = models.BooleanField(default=False)

    class Meta:
        managed = False


class Made(models.Model):
    """Has columns of user-defined types."""

    id = models.BigAutoField(primary_key=True)
    mood = Typed("made.mood", null=True)
    moods = Typed("made.mood[]", null=True)
    positive = Typed("made.positive", null=True)
    positives = Typed("made.positive[]", null=True)
    day = Typed("made.day", null=True)
    labels = Typed("made.labels", null=True)
    document = Typed("made.document", null=True)
    pair = Typed("made.pair", null=True)
    pairs = Typed("made.pair[]", null=True)
    span = Typed("made.span", null=True)
    spans = Typed("made.spans", null=True)
    tree = Typed("ltree", null=True)
    trees = Typed("ltree[]", null=True)
    bag = Typed("made.bag", null=True)

    class Meta:
        managed = False
        db_table = 'made"."made'
