"""Problems of a stream's publications and of the tables that they contain."""

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
from .old_rows import TableIdentities, remedy

NO_TABLE = "W048"
NO_KEY = "W034"
SETUP_COMMAND = "python manage.py walex_setup"
SETUP = f"Run: {SETUP_COMMAND}"


def check_requirement(id: str, require: Callable[[], object]) -> list[Problem]:
    """Return a problem with this id if a function raises `ReplicationError`."""
    try:
        require()
    except ReplicationError as error:
        return [Problem(id, error.reason, error.hint)]
    return []


def problems(config: StreamConfig, connection: Connection) -> list[Problem]:
    """
    Return the problems of a stream's publications and tables.

    Args:
        config: The stream's configuration.
        connection: A connection to the stream's database.
    """
    names = config.publications
    found = check_requirement("W030", lambda: publications.require(connection, names))
    subscriptions: Subscriptions | None = None
    try:
        subscriptions = Subscriptions(config.subscriptions)
        wanted = subscribed_tables(config, connection)
        # With "*" the stream takes whatever is published, so no table can be missing.
        if not found and not subscriptions.everything:
            found += check_requirement(
                "W031", lambda: require_covered(config, connection, wanted)
            )
    except ImproperlyConfigured as error:
        found.append(_settings_problem(error))
    described = publications.described(connection, names)
    with suppress(ImproperlyConfigured):  # of another stream, whose check reports it
        found += _unwanted_tables(config, connection)
    found += _unsent_operations(connection, described)
    published = _published_identities(config, connection)
    sending = [
        publication.name for publication in described if publication.sends_old_rows
    ]
    updated = set(publications.tables(connection, sending)) if sending else set()
    found += without_key(
        config, [table for table in published if table.name in updated]
    )
    found += _unpublished_columns(config, connection, published, sending)
    found += _identity_differences(config, connection)
    found += _unknown_filter_tables(config, connection)
    found += filter_names.unknown_columns(config, published)
    if subscriptions is not None:
        delivered = [table for table in published if subscriptions.cover(table.lineage)]
        found += old_rows.problems(config, delivered)
    return found


def _settings_problem(error: ImproperlyConfigured) -> Problem:
    message, _, hint = str(error).partition(". ")
    return Problem(NO_TABLE, f"{message.rstrip('.')}.", hint or "Correct the name.")


def _unwanted_tables(config: StreamConfig, connection: Connection) -> Iterator[Problem]:
    for name, tables in unwanted_tables.find(config, connection).items():
        yield Problem(
            "I032",
            f'The publication "{name}" contains tables that no stream subscribes'
            f" to: {listed(tables)}.",
            f"{SETUP} --stream {config.name} --prune",
        )


def _unsent_operations(
    connection: Connection, described: Collection[Publication]
) -> Iterator[Problem]:
    for publication in described:
        if publication.unsent:
            statement = publications.send_all_statement(publication.name)
            yield Problem(
                "W033",
                f'The publication "{publication.name}" does not send'
                f" {', '.join(publication.unsent).upper()}.",
                f"Run: {statement.as_string(connection)};",
            )


def _published_identities(
    config: StreamConfig, connection: Connection
) -> list[TableIdentities]:
    return table_identities(
        config, connection, publications.tables(connection, config.publications)
    )


def table_identities(
    config: StreamConfig, connection: Connection, tables: Collection[TableName]
) -> list[TableIdentities]:
    """Return the replica identities of tables and of their partitions."""
    lineages = ModelTables(config.database).lineages(tables)
    parts: dict[TableName, list[Identity]] = {table: [] for table in tables}
    for identity in identities.find(connection, tables):
        if identity.has_rows:
            parts[identity.table].append(identity)
    return [
        TableIdentities(
            name=table, lineage=lineages[table], identities=tuple(parts[table])
        )
        for table in tables
    ]


def without_key(
    config: StreamConfig, published: Collection[TableIdentities]
) -> list[Problem]:
    """Return a problem that lists the tables without a replica identity, if any."""
    keyless = [
        table
        for table in published
        if any(not identity.columns for identity in table.identities)
    ]
    if not keyless:
        return []
    statements = [
        f"{identities.statement(identity.part, 'FULL').as_string()};"
        for table in keyless
        for identity in table.identities
        if not identity.columns
    ]
    more = f" and {len(statements) - LISTED} more" if len(statements) > LISTED else ""
    names = listed(table.name for table in keyless)
    has, it = ("has", "it") if len(keyless) == 1 else ("have", "them")
    return [
        Problem(
            NO_KEY,
            f"{names} {has} no primary key or other replica identity, so PostgreSQL"
            f" refuses UPDATE and DELETE on {it} once published.",
            f"Give {it} a primary key, or {remedy(config, keyless)}; or run:"
            f" {' '.join(statements[:LISTED])}{more}",
        )
    ]


def _unpublished_columns(
    config: StreamConfig,
    connection: Connection,
    published: Collection[TableIdentities],
    sending: Collection[str],
) -> Iterator[Problem]:
    all_identities = [identity for table in published for identity in table.identities]
    by_name = {table.name: table for table in published}
    for each in identities.unpublished(connection, sending, all_identities):
        if each.listed:
            without = publications.remove_statement(each.publication, [each.table])
            hint = f"Run: {without.as_string(connection)}; then run: {SETUP_COMMAND}"
        elif each.virtual:
            entry = by_name[each.table].entry
            hint = (
                "Virtual columns cannot be published. Add"
                f' "REPLICA_IDENTITY": {{"{entry}": "DEFAULT"}} (or the name of a'
                f" unique index) to WALEX[{config.name!r}] and run: {SETUP_COMMAND}"
            )
        else:
            statement = publications.send_generated_statement(each.publication)
            hint = f"Run: {statement.as_string(connection)};"
        lacking = f": {', '.join(each.columns)}" if each.columns else ""
        yield Problem(
            "W035",
            f"PostgreSQL refuses UPDATE and DELETE on {each.table}: the publication"
            f' "{each.publication}" leaves out columns of its replica identity'
            f"{lacking}.",
            hint,
        )


def _identity_differences(
    config: StreamConfig, connection: Connection
) -> Iterator[Problem]:
    parts: dict[tuple[str, str], list[TableName]] = {}
    try:
        for part, now, identity in replica_identity.differences(config, connection):
            parts.setdefault((now, identity), []).append(part)
    except ImproperlyConfigured as error:
        yield _settings_problem(error)
    for (now, identity), tables in parts.items():
        yield Problem(
            "W039",
            f"The replica identity of {listed(tables)} is {now}, but"
            f" {replica_identity.KEY} specifies {identity}.",
            SETUP,
        )


def _unknown_filter_tables(
    config: StreamConfig, connection: Connection
) -> Iterator[Problem]:
    if config.filters:
        try:
            named_tables("FILTERS", config.filters, config, connection)
        except ImproperlyConfigured as error:
            yield _settings_problem(error)
