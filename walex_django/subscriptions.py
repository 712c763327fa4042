"""The tables that a stream, a filter or a handler covers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from .events.catalogue import Lineage
from .replication.publications import TableName

ALL_TABLES: Final = "*"
"""The entry of ``SUBSCRIPTIONS`` that names every table of the publication."""

OWN_APP = "walex_django"


class Subscriptions:
    """
    A set of tables, named by models, apps, schemas or tables.

    Args:
        entries: Strings of the form ``"app.Model"``, ``"app.*"``, ``"schema.table"``,
            ``"schema.*"`` or `ALL_TABLES`. If the part before the dot is the label of
            an installed app, the rest names a model of that app.

    Raises:
        ImproperlyConfigured: If an app has no such model.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.everything = False
        self.app_labels: set[str] = set()
        self.models: set[type[Model]] = set()
        self.schemas: set[str] = set()
        self.tables: set[TableName] = set()
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        owner, _, name = entry.partition(".")
        if entry == ALL_TABLES:
            self.everything = True
        elif owner in {config.label for config in apps.get_app_configs()}:
            if name == "*":
                self.app_labels.add(owner)
            else:
                self.models.add(_model(owner, name))
        elif name == "*":
            self.schemas.add(owner)
        else:
            self.tables.add(TableName(owner, name))

    def cover(self, lineage: Lineage) -> bool:
        """Return whether a table is included."""
        model = lineage.model
        if model is not None and model._meta.app_label == OWN_APP:
            return False
        return (
            self.everything
            or any(map(self.covers_model, lineage.models))
            or any(
                name.schema in self.schemas or name in self.tables
                for name in lineage.names
            )
        )

    def may_cover(self, model: type[Model]) -> bool:
        """Return whether a model's table may be included, in whatever schema it is."""
        names = {table.name for table in self.tables}
        return (
            self.covers_model(model)
            or bool(self.schemas)
            or any(name in model._meta.db_table for name in names)
        )

    def covers_model(self, model: type[Model]) -> bool:
        """Return whether an entry names a concrete model, its app, or all tables."""
        return (
            self.everything
            or model in self.models
            or model._meta.app_label in self.app_labels
        )


def _model(label: str, name: str) -> type[Model]:
    try:
        model = apps.get_model(label, name)
    except LookupError:
        models = sorted(
            model.__name__ for model in apps.get_app_config(label).get_models()
        )
        raise ImproperlyConfigured(
            f"The app {label!r} has no model {name!r};"
            f" its models are {', '.join(models)}."
        ) from None
    concrete: type[Model] = model._meta.concrete_model
    return concrete
