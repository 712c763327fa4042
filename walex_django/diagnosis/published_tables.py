"""What is wrong with the tables that a stream's publications send."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured

from walex_django.conf.reader import Problem
from walex_django.conf.stream import StreamConfig
from walex_django.events.catalogue import ModelTables
from walex_django.provisioning import replica_identity, unwanted_tables
from walex_django.provisioning.named_tables import (
    LISTED,
    listed,
    named_tables,
    subscribed_tables,
)
from walex_django.provisioning.requirements import require_covered
from walex_django.replication import identities, publications
from walex_django.replication.connection import Connection
from walex_django.replication.errors import ReplicationError
from walex_django.replication.identities import Identity
from walex_django.replication.publications import Publication, TableName
from walex_django.subscriptions import Subscriptions

from . import filter_names, old_rows
from .old_rows import PublishedRows, remedy

NO_TABLE = "W048"
NO_KEY = "W034"
SETUP = "Run: python manage.py walex_setup"


def caught(id: str, require: Callable[[], object]) -> list[Problem]:
    """Return what a requirement raises, as a problem with that id."""
    try:
        require()
    except ReplicationError as error:
        return [Problem(id, error.reason, error.hint)]
    return []


def problems(config: StreamConfig, connection: Connection) -> list[Problem]:
    """
    Return what is wrong with publications and tables.

    Args:
        config: of the stream.
        connection: to its database.
    """
    names = config.publications
    found = caught("W030", lambda: publications.require(connection, names))
    subscriptions: Subscriptions | None = None
    try:
        subscriptions = Subscriptions(config.subscriptions)
        wanted = subscribed_tables(config, connection)
        # With all that the publication has, it lacks nothing.
        if not found and not subscriptions.everything:
            found += caught("W031", lambda: require_covered(config, connection, wanted))
    except ImproperlyConfigured as error:
        found.append(_of_settings(error))
    described = publications.described(connection, names)
    with suppress(ImproperlyConfigured):  # another stream's, of which that is told
        found += _surplus(config, connection)
    found += _unsent(connection, described)
    published = published_rows(config, connection)
    sending = [each.name for each in described if each.sends_old_rows]
    updated = set(publications.tables(connection, sending)) if sending else set()
    found += without_key(config, [each for each in published if each.name in updated])
    found += _unpublished(config, connection, published, sending)
    found += _different(config, connection)
    found += _unknown_filtered(config, connection)
    found += filter_names.unknown_columns(config, published)
    if subscriptions is not None:
        delivered = [each for each in published if subscriptions.cover(each.lineage)]
        found += old_rows.problems(config, delivered)
    return found


def _of_settings(error: ImproperlyConfigured) -> Problem:
    message, _, hint = str(error).partition(". ")
    return Problem(NO_TABLE, f"{message.rstrip('.')}.", hint or "Mend the name.")


def _surplus(config: StreamConfig, connection: Connection) -> Iterator[Problem]:
    for name, tables in unwanted_tables.find(config, connection).items():
        yield Problem(
            "I032",
            f'The publication "{name}" has tables that no stream wants:'
            f" {listed(tables)}.",
            f"{SETUP} --stream {config.name} --prune",
        )


def _unsent(
    connection: Connection, described: Collection[Publication]
) -> Iterator[Problem]:
    for each in described:
        if each.unsent:
            mend = publications.send_all_statement(each.name).as_string(connection)
            yield Problem(
                "W033",
                f'The publication "{each.name}" does not send'
                f" {', '.join(each.unsent).upper()}.",
                f"Run: {mend};",
            )


def published_rows(config: StreamConfig, connection: Connection) -> list[PublishedRows]:
    """Return what the tables of a stream's publications tell of their old rows."""
    return rows_of(
        config, connection, publications.tables(connection, config.publications)
    )


def rows_of(
    config: StreamConfig, connection: Connection, tables: Collection[TableName]
) -> list[PublishedRows]:
    """Return what tables tell of their old rows."""
    lineages = ModelTables(config.database).lineages(tables)
    parts: dict[TableName, list[Identity]] = {table: [] for table in tables}
    for each in identities.find(connection, tables):
        if each.has_rows:
            parts[each.table].append(each)
    return [
        PublishedRows(
            name=table, lineage=lineages[table], identities=tuple(parts[table])
        )
        for table in tables
    ]


def without_key(
    config: StreamConfig, published: Collection[PublishedRows]
) -> list[Problem]:
    """Return the tables on which PostgreSQL refuses UPDATE and DELETE if published."""
    keyless = [
        each for each in published if any(not of.columns for of in each.identities)
    ]
    if not keyless:
        return []
    mends = [
        f"{identities.statement(of.part, 'FULL').as_string()};"
        for each in keyless
        for of in each.identities
        if not of.columns
    ]
    more = f" and {len(mends) - LISTED} more" if len(mends) > LISTED else ""
    names = listed(each.name for each in keyless)
    has, it = ("has", "it") if len(keyless) == 1 else ("have", "them")
    return [
        Problem(
            NO_KEY,
            f"{names} {has} no primary key and no other replica identity, and"
            f" PostgreSQL refuses UPDATE and DELETE on {it} once published.",
            f"Give {it} a primary key, or {remedy(config, keyless)}; or run:"
            f" {' '.join(mends[:LISTED])}{more}",
        )
    ]


def _unpublished(
    config: StreamConfig,
    connection: Connection,
    published: Collection[PublishedRows],
    sending: Collection[str],
) -> Iterator[Problem]:
    every = [identity for each in published for identity in each.identities]
    by_name = {each.name: each for each in published}
    for each in identities.unpublished(connection, sending, every):
        if each.listed:
            without = publications.remove_statement(each.publication, [each.table])
            hint = f"Run: {without.as_string(connection)}; and then: {SETUP[5:]}"
        elif each.virtual:
            entry = by_name[each.table].entry
            hint = (
                "Virtual columns cannot be published. Write in"
                f' WALEX[{config.name!r}]: "REPLICA_IDENTITY": {{"{entry}": "DEFAULT"}}'
                f" (or a unique index) and run: {SETUP[5:]}"
            )
        else:
            mend = publications.send_generated_statement(each.publication)
            hint = f"Run: {mend.as_string(connection)};"
        lacking = f": {', '.join(each.columns)}" if each.columns else ""
        yield Problem(
            "W035",
            f"PostgreSQL refuses UPDATE and DELETE on {each.table}: the publication"
            f' "{each.publication}" leaves out columns of its replica identity'
            f"{lacking}.",
            hint,
        )


def _different(config: StreamConfig, connection: Connection) -> Iterator[Problem]:
    parts: dict[tuple[str, str], list[TableName]] = {}
    try:
        for each in replica_identity.differences(config, connection):
            parts.setdefault((each.now, each.identity), []).append(each.part)
    except ImproperlyConfigured as error:
        yield _of_settings(error)
    for (now, identity), of in parts.items():
        yield Problem(
            "W039",
            f"The replica identity of {listed(of)} is {now}, and"
            f" {replica_identity.KEY} wants {identity}.",
            SETUP,
        )


def _unknown_filtered(
    config: StreamConfig, connection: Connection
) -> Iterator[Problem]:
    if config.filters:
        try:
            named_tables("FILTERS", config.filters, config, connection)
        except ImproperlyConfigured as error:
            yield _of_settings(error)
