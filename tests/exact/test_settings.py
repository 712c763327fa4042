"""Settings of the server, database or role do not affect values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections

from tests.listening import Listening
from tests.process import eventually
from walex_django import ExactText
from walex_django.replication.connection import Connection, connect

from .recorder import Recorder, stream
from .sameness import assert_same, assert_survives

# Flush only the tables of this app after each test.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["tests.exact"])

VALUES = {
    "date": "2026-02-03",
    "timestamp": "2026-02-03 04:05:06.789",
    "timestamptz": "2026-02-03 04:05:06.789+05:30",
    "timetz": "04:05:06+05:30",
    "interval": "-1 year 2 mons -3 days 04:05:06.7",
    "bytea": r"\x00ff5c27",
    "double precision": "0.30000000000000004",
    "real": "0.1234567",
    "double precision[]": "{0.30000000000000004,NaN}",
    "money": "-1234567.89",
    "text": "ÿ é \\ ' \" \n",
    "text[]": '{NULL,"NULL","é\\"",b}',
    "point": "(0.30000000000000004,1)",
    "regtype": "text[]",
    "regclass": "pg_catalog.pg_class",
    "jsonb": '{"é": 0.30000000000000004}',
    "tstzrange": "[2026-02-03 04:05:06+00,)",
    "timestamptz[]": '{"2026-02-03 04:05:06+00",infinity}',
    "daterange": "[2026-02-03,2026-03-02)",
    "name": "é",
}
ODD = {
    "datestyle": "SQL, DMY",
    "timezone": "America/St_Johns",
    "intervalstyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-3",
    "lc_monetary": "C.utf8",
    "lc_numeric": "C.utf8",
    "lc_time": "C.utf8",
    "client_encoding": "LATIN1",
    "xmloption": "document",
    "xmlbinary": "hex",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "off",
    "search_path": "pg_catalog",
}
OTHERS = {
    **ODD,
    "datestyle": "German",
    "timezone": "Asia/Kolkata",
    "intervalstyle": "sql_standard",
    "client_encoding": "SQL_ASCII",
}


@contextmanager
def table(connection: Connection) -> Iterator[None]:
    """Create and publish a table with a column for each type."""
    columns = ", ".join(f"c{n} {type}" for n, type in enumerate(VALUES))
    connection.execute(
        f"CREATE SCHEMA setting; CREATE TABLE setting.odd (id serial, {columns});"
        " CREATE PUBLICATION exact_events FOR TABLES IN SCHEMA setting".encode()
    )
    try:
        yield
    finally:
        connection.execute("DROP PUBLICATION exact_events; DROP SCHEMA setting CASCADE")


@pytest.fixture(scope="module")
def connection(database: None) -> Iterator[Connection]:
    with connect(stream().connection_parameters()) as connection, table(connection):
        yield connection


@contextmanager
def set_for(
    connection: Connection, scope: str, settings: dict[str, str]
) -> Iterator[None]:
    """Set defaults for new sessions."""
    for name, value in settings.items():
        connection.execute(f"ALTER {scope} SET {name} = '{value}'".encode())
    try:
        if scope == "SYSTEM":
            reload(connection)
        yield
    finally:
        for name in settings:
            connection.execute(f"ALTER {scope} RESET {name}".encode())
        if scope == "SYSTEM":
            reload(connection)
        connections.close_all()


def reload(connection: Connection) -> None:
    """Reload the server's configuration and wait until new sessions use it."""
    before = loaded_at()
    connection.execute("SELECT pg_reload_conf()")
    eventually(lambda: loaded_at() != before, "the new configuration")


def loaded_at() -> Any:
    with connect(stream().connection_parameters()) as connection:
        return connection.execute("SELECT pg_conf_load_time()").fetchone()


@pytest.mark.parametrize("settings", [ODD, OTHERS], ids=["odd", "others"])
@pytest.mark.parametrize("scope", ["SYSTEM", "DATABASE", "ROLE", "ROLE IN DATABASE"])
def test_settings_do_not_affect_values(
    connection: Connection, scope: str, settings: dict[str, str]
) -> None:
    names = {
        "DATABASE": f'DATABASE "{connection.info.dbname}"',
        "ROLE": f'ROLE "{connection.info.user}"',
        "ROLE IN DATABASE": f'ROLE "{connection.info.user}" IN DATABASE'
        f' "{connection.info.dbname}"',
    }
    values = ", ".join(["%s"] * len(VALUES))
    insert = f"INSERT INTO setting.odd VALUES (DEFAULT, {values})".encode()
    with (
        set_for(connection, names.get(scope, scope), settings),
        Listening(stream("setting.*")) as listening,
    ):
        with connect(stream().connection_parameters()) as odd:
            shown = odd.execute("SHOW array_nulls").fetchone()
        connection.execute(insert, list(VALUES.values()))
        (event,) = listening.wait_for(1)
        assert_survives(event)
    assert shown == ("off",)
    (selected,) = Recorder(connection, listening).selected("setting.odd", [event])
    assert_same(event.new_record, selected)


@pytest.fixture
def database_of(
    request: pytest.FixtureRequest, connection: Connection
) -> Iterator[Connection]:
    """A session on a database with an encoding, which is the default meanwhile."""
    connection.execute(
        f"CREATE DATABASE encoded ENCODING {request.param} TEMPLATE template0"
        " LC_COLLATE 'C' LC_CTYPE 'C'".encode()
    )
    connections.close_all()
    default = connections["default"].settings_dict
    name, default["NAME"] = default["NAME"], "encoded"
    try:
        with connect(stream().connection_parameters()) as encoded, table(encoded):
            yield encoded
    finally:
        connections.close_all()
        default["NAME"] = name
        connection.execute("DROP DATABASE encoded")


@pytest.mark.parametrize("database_of", ["LATIN1", "SQL_ASCII"], indirect=True)
def test_database_encoding_does_not_affect_values(database_of: Connection) -> None:
    values = ", ".join(["%s"] * len(VALUES))
    with Listening(stream("setting.*")) as listening:
        database_of.execute(
            f"INSERT INTO setting.odd VALUES (DEFAULT, {values})".encode(),
            list(VALUES.values()),
        )
        (event,) = listening.wait_for(1)
        assert_survives(event)
    (selected,) = Recorder(database_of, listening).selected("setting.odd", [event])
    assert_same(event.new_record, selected)
    assert event.new_record is not None
    assert VALUES["text"] in event.new_record.values()


@pytest.mark.parametrize("database_of", ["SQL_ASCII"], indirect=True)
def test_bytes_that_are_not_utf8_are_exact_text(database_of: Connection) -> None:
    place = {type: f"c{n}" for n, type in enumerate(VALUES)}
    with Listening(stream("setting.*")) as listening:
        database_of.execute(
            f"INSERT INTO setting.odd ({place['text']}, {place['text[]']},"
            f" {place['jsonb']}, {place['name']}) VALUES (E'ab\\xff', ARRAY[E'\\xfe'],"
            " '{\"a\": 1}', E'\\xe9')".encode()
        )
        (event,) = listening.wait_for(1)
        assert_survives(event)
    record = event.new_record
    assert record is not None
    assert_same(record[place["text"]], ExactText("ab\udcff"))
    assert_same(record[place["text[]"]], ExactText("{\udcfe}"))
    assert_same(record[place["jsonb"]], {"a": 1})
    assert_same(record[place["name"]], ExactText("\udce9"))
