"""Ids of Records: sorted by time, marked with their tenant, unguessable; and who answered most of one."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.host.clock import Dice
from servery.terms.record import (
    RECORD_ID_BYTES,
    Attempt,
    Role,
    answering,
    new_record_id,
    parse_record_id,
    record_time_ns,
)

MS = 1_000_000
times = st.integers(0, 2**47 * MS)
seals = st.binary(min_size=4, max_size=4)
bits = st.binary(min_size=16, max_size=16)


@given(times, seals, bits)
def test_an_id_is_read_back(at_ns: int, seal: bytes, draw: bytes) -> None:
    record_id = new_record_id(seal, at_ns, draw)
    assert len(record_id) == RECORD_ID_BYTES
    assert parse_record_id(record_id.hex()) == record_id
    assert record_time_ns(record_id) == at_ns // MS * MS
    assert record_id[6:10] == seal
    assert record_id[10:] == draw


@given(times, times, seals, bits, bits)
def test_ids_sort_by_time(one_ns: int, other_ns: int, seal: bytes, one: bytes, other: bytes) -> None:
    earlier, later = sorted((one_ns, other_ns))
    if earlier // MS < later // MS:
        assert new_record_id(seal, earlier, one) < new_record_id(seal, later, other)


@given(st.text(max_size=60) | st.from_regex(r"[0-9a-fA-F]{50,54}\n?"))
def test_junk_is_no_id_and_never_raises(text: str) -> None:
    well_formed = len(text) == 2 * RECORD_ID_BYTES and set(text) <= set("0123456789abcdef")
    assert (parse_record_id(text) is not None) == well_formed


@given(st.lists(st.integers(1, 64), max_size=400))
def test_dice_give_each_byte_once(counts: list[int]) -> None:
    pages: list[bytes] = []

    def source(count: int) -> bytes:
        pages.append(os.urandom(count))
        return pages[-1]

    dice = Dice(source)
    drawn = [dice.bits(count) for count in counts]
    assert [len(one) for one in drawn] == counts
    rest = b"".join(pages)
    for one in drawn:
        place = rest.index(one)
        rest = rest[place + len(one) :]


def attempt(answered: int) -> Attempt:
    return Attempt(Role.SERVE, "t", "m", "d", 9, answered, 1, 1)


@pytest.mark.parametrize(
    ("answered", "at"), [([], -1), ([0], 0), ([0, 0], 1), ([3, 1], 0), ([1, 3, 2], 1), ([2, 2], 1), ([5, 0, 5, 1], 2)]
)
def test_who_answered_most(answered: list[int], at: int) -> None:
    assert answering([attempt(count) for count in answered]) == at
