"""
Messages as a server sent them.

The bytes were recorded from PostgreSQL 18.6, by
``SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL,
'proto_version', '1', 'publication_names', 'p', 'messages', 'true')``, after::

    CREATE PUBLICATION p FOR ALL TABLES;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN weight AS numeric(6, 2);
    CREATE TABLE pet (id bigint PRIMARY KEY, name varchar(40), mood mood,
                      kg weight, diary text);
    ALTER TABLE pet ALTER diary SET STORAGE EXTERNAL;
    CREATE TABLE toy (id int PRIMARY KEY);
    CREATE TABLE log (line text);
    ALTER TABLE log REPLICA IDENTITY FULL;
    CREATE TABLE pair (a int NOT NULL, b int NOT NULL, note text);
    CREATE UNIQUE INDEX pair_ab ON pair (a, b);
    ALTER TABLE pair REPLICA IDENTITY USING INDEX pair_ab;
    CREATE TABLE bare (x int);
    ALTER TABLE bare REPLICA IDENTITY NOTHING;
    CREATE TABLE empty ();
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_django.pgoutput.decoder import decode, relation_oid
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.lsn import Lsn
from walex_django.pgoutput.messages import (
    UNCHANGED,
    Begin,
    Binary,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    Row,
    Truncate,
    Type,
    Update,
    Value,
)

PET, TOY, LOG, PAIR, BARE, EMPTY = 16393, 16401, 16407, 16412, 16435, 16438
MOOD, WEIGHT = 16386, 16392
LEAP_DAY = datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC)


class Recorded(NamedTuple):
    """The bytes of one message, the command that produced it, and its decoded form."""

    made_by: str
    hex: str
    message: Message

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.hex)

    @property
    def kind(self) -> str:
        return type(self.message).__name__

    def __str__(self) -> str:
        return f"{self.kind}: {self.made_by}"


def column(name: str, type_oid: int, modifier: int = -1) -> Column:
    return Column(name, type_oid, modifier, is_key=False)


def key(name: str, type_oid: int) -> Column:
    return Column(name, type_oid, -1, is_key=True)


PET_COLUMNS = (
    key("id", 20),
    column("name", 1043, 44),
    column("mood", MOOD),
    column("kg", WEIGHT),
    column("diary", 25),
)
RECORDED = [
    Recorded(
        # xact_setup also sets the commit time, which is how we know it.
        "pg_replication_origin_xact_setup('0/1234ABCD', '2024-02-29 12:34:56.789012Z')",
        "42 0000000001708470 0002b58341728614 0000030c",
        Begin(Lsn.parse("0/1708470"), LEAP_DAY, 780),
    ),
    Recorded(
        "COMMIT of the same",
        "43 00 0000000001708470 00000000017084b8 0002b58341728614",
        Commit(0, Lsn.parse("0/1708470"), Lsn.parse("0/17084B8"), LEAP_DAY),
    ),
    Recorded(
        "pg_replication_origin_session_setup('crm')",
        "4f 000000001234abcd 63726d00",
        Origin(Lsn.parse("0/1234ABCD"), "crm"),
    ),
    Recorded(
        "first row of pet",
        "52 00004009 7075626c696300 70657400 64 0005"
        "01 696400 00000014 ffffffff"
        "00 6e616d6500 00000413 0000002c"
        "00 6d6f6f6400 00004002 ffffffff"
        "00 6b6700 00004008 ffffffff"
        "00 646961727900 00000019 ffffffff",
        Relation(PET, "public", "pet", "d", PET_COLUMNS),
    ),
    Recorded(
        "first row of log",
        "52 00004017 7075626c696300 6c6f6700 66 0001 01 6c696e6500 00000019 ffffffff",
        Relation(LOG, "public", "log", "f", (key("line", 25),)),
    ),
    Recorded(
        "first row of pair",
        "52 0000401c 7075626c696300 7061697200 69 0003"
        "01 6100 00000017 ffffffff"
        "01 6200 00000017 ffffffff"
        "00 6e6f746500 00000019 ffffffff",
        Relation(
            PAIR,
            "public",
            "pair",
            "i",
            (key("a", 23), key("b", 23), column("note", 25)),
        ),
    ),
    Recorded(
        "first row of bare",
        "52 00004033 7075626c696300 6261726500 6e 0001 00 7800 00000017 ffffffff",
        Relation(BARE, "public", "bare", "n", (column("x", 23),)),
    ),
    Recorded(
        "first row of empty",
        "52 00004036 7075626c696300 656d70747900 64 0000",
        Relation(EMPTY, "public", "empty", "d", ()),
    ),
    Recorded(
        "the enum of pet",
        "59 00004002 7075626c696300 6d6f6f6400",
        Type(MOOD, "public", "mood"),
    ),
    Recorded(
        "the domain of pet, by the name of its base type, whose schema is not sent",
        "59 00004008 00 6e756d6572696300",
        Type(WEIGHT, "pg_catalog", "numeric"),
    ),
    Recorded(
        "INSERT INTO pet VALUES (1, 'Zoë', 'ok', 4.20, NULL)",
        "49 00004009 4e 0005 74 00000001 31 74 00000004 5a6fc3ab"
        "74 00000002 6f6b 74 00000004 342e3230 6e",
        Insert(PET, [b"1", "Zoë".encode(), b"ok", b"4.20", None]),
    ),
    Recorded(
        "INSERT INTO empty DEFAULT VALUES", "49 00004036 4e 0000", Insert(EMPTY, [])
    ),
    Recorded(
        "INSERT INTO pet VALUES (7, 'Rex', 'ok', 1.5, 'd'), read with binary 'true'",
        "49 00004009 4e 0005 62 00000008 0000000000000007 62 00000003 526578"
        "62 00000002 6f6b 62 0000000c 000200000000000200011388 62 00000001 64",
        Insert(
            PET,
            [
                Binary(b"\0\0\0\0\0\0\0\7"),
                Binary(b"Rex"),
                Binary(b"ok"),
                Binary(b"\0\2\0\0\0\0\0\2\0\1\x13\x88"),
                Binary(b"d"),
            ],
        ),
    ),
    Recorded(
        "UPDATE pet SET name = 'Bo' WHERE id = 1",
        "55 00004009 4e 0005 74 00000001 31 74 00000002 426f"
        "74 00000002 6f6b 74 00000004 342e3230 6e",
        Update(PET, None, None, [b"1", b"Bo", b"ok", b"4.20", None]),
    ),
    Recorded(
        "UPDATE pet SET name = 'Bo2' WHERE id = 2, whose diary has 3000 characters",
        "55 00004009 4e 0005 74 00000001 32 74 00000003 426f3274 00000003 736164 6e 75",
        Update(PET, None, None, [b"2", b"Bo2", b"sad", None, UNCHANGED]),
    ),
    Recorded(
        "UPDATE pet SET id = 3 WHERE id = 1",
        "55 00004009 4b 0005 74 00000001 31 6e 6e 6e 6e"
        "4e 0005 74 00000001 33 74 00000002 426f"
        "74 00000002 6f6b 74 00000004 342e3230 6e",
        Update(PET, [b"1", *[None] * 4], None, [b"3", b"Bo", b"ok", b"4.20", None]),
    ),
    Recorded(
        "UPDATE log SET line = 'b' WHERE line = 'a'",
        "55 00004017 4f 0001 74 00000001 61 4e 0001 74 00000001 62",
        Update(LOG, None, [b"a"], [b"b"]),
    ),
    Recorded(
        "DELETE FROM pair",
        "44 0000401c 4b 0003 74 00000001 31 74 00000001 32 6e",
        Delete(PAIR, [b"1", b"2", None], None),
    ),
    Recorded(
        "DELETE FROM log WHERE line IS NULL",
        "44 00004017 4f 0001 6e",
        Delete(LOG, None, [None]),
    ),
    Recorded(
        "TRUNCATE pet",
        "54 00000001 00 00004009",
        Truncate((PET,), cascade=False, restart_identity=False),
    ),
    Recorded(
        "TRUNCATE pet, toy CASCADE",
        "54 00000002 01 00004009 00004011",
        Truncate((PET, TOY), cascade=True, restart_identity=False),
    ),
    Recorded(
        "TRUNCATE toy RESTART IDENTITY",
        "54 00000001 02 00004011",
        Truncate((TOY,), cascade=False, restart_identity=True),
    ),
    Recorded(
        "TRUNCATE toy RESTART IDENTITY CASCADE",
        "54 00000001 03 00004011",
        Truncate((TOY,), cascade=True, restart_identity=True),
    ),
    Recorded(
        "pg_logical_emit_message(true, 'shop', 'héllo')",
        "4d 01 00000000017052c8 73686f7000 00000006 68c3a96c6c6f",
        LogicalMessage(
            transactional=True,
            lsn=Lsn.parse("0/17052C8"),
            prefix="shop",
            content="héllo".encode(),
        ),
    ),
    Recorded(
        r"pg_logical_emit_message(false, 'raw', '\x00ff'::bytea)",
        "4d 00 0000000001705368 72617700 00000002 00ff",
        LogicalMessage(
            transactional=False,
            lsn=Lsn.parse("0/1705368"),
            prefix="raw",
            content=b"\x00\xff",
        ),
    ),
    Recorded(
        "pg_logical_emit_message(false, '', ''::bytea)",
        "4d 00 0000000001705330 00 00000000",
        LogicalMessage(
            transactional=False, lsn=Lsn.parse("0/1705330"), prefix="", content=b""
        ),
    ),
]
each_recorded = pytest.mark.parametrize("recorded", RECORDED, ids=str)


@each_recorded
def test_recorded_message_is_decoded(recorded: Recorded) -> None:
    assert decode(recorded.data) == recorded.message


@each_recorded
def test_message_is_read_where_it_starts(recorded: Recorded) -> None:
    assert decode(b"w" * 25 + recorded.data, 25) == recorded.message


@each_recorded
def test_every_truncation_is_reported_with_the_kind(recorded: Recorded) -> None:
    for size in range(1, len(recorded.data)):
        with pytest.raises(ProtocolError) as caught:
            decode(recorded.data[:size])
        assert str(caught.value) == f"{recorded.kind}, byte {size}: truncated"


@each_recorded
def test_extra_byte_is_reported_with_the_kind(recorded: Recorded) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(recorded.data + b"\0")

    end = len(recorded.data)
    assert str(caught.value) == f"{recorded.kind}, byte {end}: 1 extra bytes"


@pytest.mark.parametrize("start", [0, 25])
def test_table_of_a_row_is_known_before_the_row_is_read(start: int) -> None:
    tables = [
        relation_oid(b"w" * start + recorded.data, start)
        for recorded in RECORDED
        if isinstance(recorded.message, Insert | Update | Delete)
    ]

    assert tables == [PET, EMPTY, PET, PET, PET, PET, LOG, PAIR, LOG]


@pytest.mark.parametrize("start", [0, 1, 5])
def test_empty_message_is_refused(start: int) -> None:
    with pytest.raises(ProtocolError, match="message, byte 0: empty"):
        decode(b"", start)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("58", "message, byte 0: unknown message type b'X'"),
        ("49 00004017 4b 0000", "Insert, byte 5: unknown tuple type b'K'"),
        ("55 00004017 58 0000", "Update, byte 5: unknown tuple type b'X'"),
        ("55 00004017 4b 0000 4b 0000", "Update, byte 8: unknown tuple type b'K'"),
        ("44 00004017 4e 0000", "Delete, byte 5: unknown tuple type b'N'"),
        ("49 00004017 4e 0002 6e 78", "Insert, byte 9: unknown value type b'x'"),
        ("54 00000000 04", "Truncate, byte 5: unknown flags 4"),
        ("52 00004017 00 6100 78", "Relation, byte 8: unknown replica identity b'x'"),
        (
            "52 00004017 00 6100 64 0001 02",
            "Relation, byte 11: flag is 2, expected 0 or 1",
        ),
        ("4d 02", "LogicalMessage, byte 1: flag is 2, expected 0 or 1"),
        ("4f 0000000000000000 61ff00", "Origin, byte 10: not UTF-8"),
        (
            f"42 {0:016x} {10**18:016x} 00000001",
            f"Begin, byte 9: timestamp out of range: {10**18} µs after 2000",
        ),
        ("54 ffffffff 00 00004009", "Truncate, byte 10: truncated"),
        ("49 00004017 4e 0001 74 ffffffff 61", "Insert, byte 14: truncated"),
        ("49 00004017 4e ffff 6e", "Insert, byte 9: truncated"),
        ("52 00004017 00 6100 64 ffff", "Relation, byte 11: truncated"),
    ],
)
@pytest.mark.parametrize("before", [b"", b"wwww"])
def test_invalid_byte_is_reported_with_its_offset(
    wrong: str, error: str, before: bytes
) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(before + bytes.fromhex(wrong), len(before))

    assert str(caught.value) == error


def test_relation_without_a_schema_is_in_pg_catalog() -> None:
    message = decode(bytes.fromhex("52 000004e4 00 70675f6a6f6200 6e 0000"))

    assert message == Relation(1252, "pg_catalog", "pg_job", "n", ())


def test_unchanged_differs_from_null_and_prints_its_name() -> None:
    message = decode(bytes.fromhex("49 00004017 4e 0002 75 6e"))

    assert isinstance(message, Insert)
    assert message.new[0] is UNCHANGED
    assert message.new[1] is None
    assert repr(message.new) == "[UNCHANGED, None]"


def read(data: bytes, start: int = 0) -> Message | str:
    """Return the message or the error; anything else escapes."""
    try:
        return decode(data, start)
    except ProtocolError as error:
        return str(error)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a recorded message with some bytes replaced, removed or added."""
    data = draw(st.sampled_from(RECORDED)).data
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 4))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + cut :]
    return data


@given(st.binary() | damaged(), st.binary(max_size=30))
def test_any_bytes_give_a_message_or_a_protocol_error_wherever_they_start(
    data: bytes, before: bytes
) -> None:
    result = read(data)

    assert isinstance(result, Message | str)
    assert read(before + data, len(before)) == result


@given(st.sampled_from(b"BCORYIUDTM"), st.binary(max_size=80))
def test_any_bytes_after_a_known_kind_give_that_message_or_its_error(
    kind: int, rest: bytes
) -> None:
    known = {it.data[0]: it.kind for it in RECORDED}
    result = read(bytes([kind]) + rest)

    name = result.split(",")[0] if isinstance(result, str) else type(result).__name__
    assert name == known[kind]


oids = st.integers(0, 2**32 - 1)
values: st.SearchStrategy[Value] = (
    st.none() | st.just(UNCHANGED) | st.binary() | st.binary().map(Binary)
)
rows: st.SearchStrategy[Row] = st.lists(values, max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def pack_value(value: Value) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    kind, data = (b"b", value.data) if isinstance(value, Binary) else (b"t", value)
    return kind + struct.pack(">I", len(data)) + data


def pack_row(kind: bytes, row: Row | None) -> bytes:
    if row is None:
        return b""
    return kind + struct.pack(">H", len(row)) + b"".join(map(pack_value, row))


def pack(message: Insert | Update | Delete) -> bytes:
    kind = type(message).__name__[:1].encode()
    data = struct.pack(">cI", kind, message.relation_oid)
    if not isinstance(message, Insert):
        data += pack_row(b"K", message.key) + pack_row(b"O", message.old)
    return data if isinstance(message, Delete) else data + pack_row(b"N", message.new)


@given(
    st.builds(Insert, oids, rows)
    | st.builds(Update, oids, st.none(), st.none(), rows)
    | st.builds(Update, oids, rows, st.none(), rows)
    | st.builds(Update, oids, st.none(), rows, rows)
    | st.builds(Delete, oids, rows, st.none())
    | st.builds(Delete, oids, st.none(), rows)
)
def test_rows_round_trip(message: Insert | Update | Delete) -> None:
    assert decode(pack(message)) == message


columns = st.builds(
    Column,
    name=names,
    type_oid=oids,
    type_modifier=st.integers(-(2**31), 2**31 - 1),
    is_key=st.booleans(),
)


@given(
    st.builds(
        Relation,
        oid=oids,
        schema=names.filter(bool),
        name=names,
        replica_identity=st.sampled_from("dnfi"),
        columns=st.lists(columns, max_size=10).map(tuple),
    )
)
def test_relations_round_trip(relation: Relation) -> None:
    head = f"{relation.schema}\0{relation.name}\0{relation.replica_identity}"
    data = struct.pack(">cI", b"R", relation.oid) + head.encode()
    data += struct.pack(">H", len(relation.columns))
    for column in relation.columns:
        data += struct.pack(">?", column.is_key) + column.name.encode() + b"\0"
        data += struct.pack(">Ii", column.type_oid, column.type_modifier)

    assert decode(data) == relation


@given(st.builds(Truncate, st.lists(oids).map(tuple), st.booleans(), st.booleans()))
def test_truncated_tables_round_trip(message: Truncate) -> None:
    oids = message.relation_oids
    flags = message.cascade | message.restart_identity << 1

    assert decode(struct.pack(f">cIB{len(oids)}I", b"T", len(oids), flags, *oids)) == (
        message
    )
