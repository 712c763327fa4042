from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_django.pgoutput.lsn import Lsn

positions = st.integers(0, 2**64 - 1).map(Lsn)

# What PostgreSQL prints for '…'::pg_lsn, and for ('…'::pg_lsn - '0/0').
PRINTED = [
    ("0/0", 0),
    ("0/16B3748", 23_803_720),
    ("16/B374D848", 97_500_059_720),
    ("FFFFFFFF/FFFFFFFF", 18_446_744_073_709_551_615),
]


@pytest.mark.parametrize(("text", "number"), PRINTED)
def test_prints_as_postgresql_does(text: str, number: int) -> None:
    assert str(Lsn(number)) == text
    assert f"{Lsn(number)}" == text
    assert repr(Lsn(number)) == f"Lsn('{text}')"


@pytest.mark.parametrize(("text", "number"), PRINTED)
def test_reads_what_postgresql_prints(text: str, number: int) -> None:
    assert Lsn.parse(text) == number
    assert Lsn.parse(text.lower()) == number


@pytest.mark.parametrize("text", ["00000000/00000000", "000/00000"])
def test_reads_leading_zeros(text: str) -> None:
    assert Lsn.parse(text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "0",
        "0/",
        "/0",
        "0/0/0",
        "G/0",
        "-1/0",
        "+1/0",
        "1_0/0",
        " 0/0",
        "0x1/0X2",
        "0/0\n",
        "0/123456789",
        "123456789/0",
        "\N{ARABIC-INDIC DIGIT ONE}/0",
    ],
)
def test_refuses_other_text_and_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="not a log sequence number") as caught:
        Lsn.parse(text)

    assert repr(text) in str(caught.value)


@given(positions)
def test_text_round_trips(position: Lsn) -> None:
    assert Lsn.parse(str(position)) == position


@given(positions, positions)
def test_is_ordered_as_a_number_not_as_text(one: Lsn, other: Lsn) -> None:
    assert (one < other) is (int(one) < int(other))
    assert type(max(one, other)) is Lsn


def test_aligns_as_text() -> None:
    assert f"{Lsn(255):>8}|{Lsn(255):<6}|" == "    0/FF|0/FF  |"


def test_survives_copies_and_pickles() -> None:
    position = Lsn.parse("16/B374D848")

    for again in (
        copy.deepcopy(position),
        pickle.loads(pickle.dumps(position)),  # noqa: S301
    ):
        assert (type(again), again) == (Lsn, position)
