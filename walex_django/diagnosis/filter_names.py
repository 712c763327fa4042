"""Names in filters that nothing has: they leave nothing out, and mask nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from walex_django.conf import names
from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning.named_tables import listed

from . import old_rows
from .old_rows import PublishedRows

_DEFAULT_SCHEMA = "public"


def unknown_columns(
    config: StreamConfig, published: Collection[PublishedRows]
) -> Iterator[Problem]:
    """
    Yield what filters name and none of the tables has that they are for.

    What `names.unknown_fields` tells is left out.

    Args:
        config: of the stream.
        published: the tables that it may deliver.
    """
    for where, entry, chosen, _, covers in old_rows.filters(config):
        tables = [table for table in published if covers(table.lineage)]
        # Without partitions, a partitioned table has no rows to tell of.
        if not tables or not all(table.identities for table in tables):
            continue
        known = names.errors_by_name(entry, chosen) if entry is not None else {}
        for name in names.one_by_one(chosen):
            if name not in known and all(
                table.column(name) not in table.columns for table in tables
            ):
                yield Problem(
                    "W049",
                    f"{where}: no column or field of"
                    f" {listed(table.name for table in tables)} is named {name!r}.",
                    _meant(name, tables),
                )


def _meant(name: str, tables: Collection[PublishedRows]) -> str:
    columns = sorted(frozenset().union(*(table.columns for table in tables)))
    if close := difflib.get_close_matches(name, columns, n=1):
        return f"Did you mean {close[0]!r}?"
    return "Name a column of the table, or a field of its model."
