"""Names in filters that match no column: they filter nothing, and mask nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from walex_django.conf import names
from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning.named_tables import listed

from . import old_rows
from .old_rows import TableIdentities


def unknown_columns(
    config: StreamConfig, published: Collection[TableIdentities]
) -> Iterator[Problem]:
    """
    Yield a problem for each name in a filter that none of the filter's tables has.

    Names that `names.unknown_fields` reports are skipped.

    Args:
        config: The stream's configuration.
        published: The published tables that the stream may deliver.
    """
    for path, entry, filter_, _, covers in old_rows.filters(config):
        tables = [table for table in published if covers(table.lineage)]
        # A partitioned table without partitions has no identities to get columns from.
        if not tables or not all(table.identities for table in tables):
            continue
        reported = names.errors_by_name(entry, filter_) if entry is not None else {}
        for name in names.one_by_one(filter_):
            if name not in reported and all(
                table.column(name) not in table.columns for table in tables
            ):
                yield Problem(
                    "W049",
                    f"{path}: no column or field of"
                    f" {listed(table.name for table in tables)} is named {name!r}.",
                    _suggestion(name, tables),
                )


def _suggestion(name: str, tables: Collection[TableIdentities]) -> str:
    columns = sorted(frozenset().union(*(table.columns for table in tables)))
    if close := difflib.get_close_matches(name, columns, n=1):
        return f"Did you mean {close[0]!r}?"
    return "Use the name of a column of the table, or of a field of its model."
