"""Packed card states: one form, checked, versioned."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.card_event import CardEvent
from stream_features.card_state import CardLayout, CardState
from stream_features.codec import CODEC_VERSION, pack, unpack
from stream_features.errors import StateCorrupt
from stream_features.kernel import observe
from tests.unit.stream_features.cards import an_event, core_with, events, small_layouts


def a_packed_state(exact_entries: int = 3) -> bytes:
    """Six purchases, the older ones merged."""
    layout = CardLayout(retention_ms=10**9, exact_entries=exact_entries)
    card = CardState.empty()
    for number in range(1, 7):
        card.add(layout, an_event(10**12 + number * 10_000_000, number, merchant_hash=number, country=number))
    return pack(card)


@settings(max_examples=80, deadline=None)
@given(small_layouts, st.lists(events, max_size=16))
def test_what_is_unpacked_packs_to_the_same_bytes(layout: CardLayout, arrivals: list[CardEvent]) -> None:
    card = CardState.empty()
    for event in arrivals:
        observe(core_with(layout), card, event)
    again = unpack(pack(card), complete_from_ms=5)
    assert pack(again) == pack(card)
    assert again.exact_events() == card.exact_events()
    assert again.complete_from_ms == 5


def test_an_amount_that_needs_64_bits_leaves_no_trace_once_it_is_forgotten() -> None:
    layout = CardLayout(retention_ms=3_600_000)
    with_large, without = CardState.empty(), CardState.empty()
    with_large.add(layout, an_event(0, 1, amount_base=10**12))
    for card in (with_large, without):
        card.add(layout, an_event(10**9, 2, amount_base=5))
    assert pack(with_large) == pack(without)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    packed = bytearray(a_packed_state())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StateCorrupt):
        unpack(bytes(packed))


@pytest.mark.parametrize("length", [0, 3, 20, 45, -1])
def test_a_cut_state_is_corrupt(length: int) -> None:
    with pytest.raises(StateCorrupt):
        unpack(a_packed_state()[:length])


@pytest.mark.parametrize("exact_entries", [3, 6])
@pytest.mark.parametrize("tail", [b"\0", b"\0" * 24])
def test_a_state_with_more_bytes_than_its_header_says_is_corrupt_even_if_they_check(
    tail: bytes, exact_entries: int
) -> None:
    body = a_packed_state(exact_entries)[4:] + tail
    with pytest.raises(StateCorrupt, match="length"):
        unpack(struct.pack("<I", crc32(body)) + body)


@pytest.mark.parametrize("exact_entries", [3, 6])
@pytest.mark.parametrize("cut", [1, 8, 24])
def test_a_state_with_fewer_bytes_than_its_header_says_is_corrupt_even_if_they_check(
    cut: int, exact_entries: int
) -> None:
    body = a_packed_state(exact_entries)[4:-cut]
    with pytest.raises(StateCorrupt, match="header says"):
        unpack(struct.pack("<I", crc32(body)) + body)


def test_another_codec_version_is_refused() -> None:
    body = bytes([CODEC_VERSION + 1]) + a_packed_state()[5:]
    with pytest.raises(StateCorrupt, match="version"):
        unpack(struct.pack("<I", crc32(body)) + body)
