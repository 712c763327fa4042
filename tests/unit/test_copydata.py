from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_django.pgoutput.copydata import Keepalive, XLogData, parse, status_update
from walex_django.pgoutput.errors import ProtocolError
from walex_django.pgoutput.lsn import Lsn

positions = st.integers(0, 2**64 - 1)
clocks = st.integers(-(2**63), 2**63 - 1)


def xlog_data(start: int, end: int, clock: int, payload: bytes) -> bytes:
    return struct.pack(">cQQq", b"w", start, end, clock) + payload


def keepalive(end: int, clock: int, reply: int) -> bytes:
    return struct.pack(">cQqB", b"k", end, clock, reply)


@given(positions, positions, clocks, st.binary())
def test_xlog_data_gives_its_positions_and_its_payload(
    start: int, end: int, clock: int, payload: bytes
) -> None:
    envelope = parse(xlog_data(start, end, clock, payload))

    assert envelope == XLogData(Lsn(start), Lsn(end), payload)


@given(end=positions, clock=clocks, reply=st.booleans())
def test_keepalive_gives_its_position_and_whether_to_reply(
    *, end: int, clock: int, reply: bool
) -> None:
    assert parse(keepalive(end, clock, reply)) == Keepalive(Lsn(end), reply)


def test_positions_print_as_log_sequence_numbers() -> None:
    envelope = parse(xlog_data(0x16B3748, 0x1600000000, 0, b"B"))

    assert isinstance(envelope, XLogData)
    assert str(envelope.start_lsn) == "0/16B3748"
    assert str(envelope.end_lsn) == "16/0"


@pytest.mark.parametrize("size", range(1, 25))
def test_truncated_xlog_data_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(xlog_data(1, 2, 3, b"")[:size])

    assert str(caught.value) == f"XLogData, byte {size}: truncated"


@pytest.mark.parametrize("size", range(1, 18))
def test_truncated_keepalive_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(keepalive(1, 2, 0)[:size])

    assert str(caught.value) == f"Keepalive, byte {size}: truncated"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "CopyData, byte 0: empty"),
        (b"d rest", "CopyData, byte 0: unknown message type b'd'"),
        (keepalive(1, 2, 1) + b"\0\0", "Keepalive, byte 18: 2 extra bytes"),
        (keepalive(1, 2, 2), "Keepalive, byte 17: flag is 2, expected 0 or 1"),
    ],
)
def test_other_bytes_are_refused(data: bytes, error: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(data)

    assert str(caught.value) == error


@given(
    st.binary(max_size=64)
    | st.binary(max_size=32).map(lambda rest: b"w" + rest)
    | st.binary(min_size=15, max_size=19).map(lambda rest: b"k" + rest)
)
def test_any_bytes_give_an_envelope_or_a_protocol_error(data: bytes) -> None:
    try:
        result = str(parse(data))
    except ProtocolError as error:
        result = str(error)

    assert result.startswith(("CopyData,", "XLogData", "Keepalive"))


@given(received=positions, confirmed=positions, reply=st.booleans())
def test_status_update_has_the_servers_layout(
    *, received: int, confirmed: int, reply: bool
) -> None:
    data = status_update(received=received, confirmed=confirmed, reply_requested=reply)

    kind, written, flushed, applied, _, requested = struct.unpack(">cQQQqB", data)
    assert kind == b"r"
    assert (written, flushed, applied) == (received, confirmed, confirmed)
    assert requested == reply


def test_status_update_requests_no_reply_by_default() -> None:
    assert status_update(received=2, confirmed=1)[-1] == 0


def test_status_update_contains_the_current_time() -> None:
    before = datetime.now(UTC)
    data = status_update(received=2, confirmed=1)
    after = datetime.now(UTC)

    (microseconds,) = struct.unpack_from(">q", data, 25)
    sent_at = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    assert before <= sent_at <= after
