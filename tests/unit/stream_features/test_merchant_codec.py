"""Packed merchant states: one form, checked, versioned."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.errors import StateCorrupt
from stream_features.merchant_codec import CODEC_VERSION, pack_merchant, unpack_merchant
from stream_features.merchant_state import FraudTiles, MerchantLayout, MerchantState, PurchaseTiles
from tests.unit.stream_features.merchants import FAR_MS, Effect, effects, small_merchant_layouts, state_of
from tests.unit.stream_features.slow_merchant import contents_of

LAYOUT = MerchantLayout(10**9, 60_000, 3_600_000, 3_600_000, 3_600_000)


def a_packed_state() -> bytes:
    arrivals = [Effect(FAR_MS + number**3 * 100_000, 10 ** (number % 11), 0) for number in range(20)]
    arrivals += [Effect(FAR_MS + number * 10_000_000, FAR_MS + 10**9, 1) for number in range(5)]
    return pack_merchant(state_of(LAYOUT, arrivals))


@settings(max_examples=80, deadline=None)
@given(small_merchant_layouts, st.lists(effects, max_size=20))
def test_what_is_unpacked_is_what_was_packed(layout: MerchantLayout, arrivals: list[Effect]) -> None:
    state = state_of(layout, arrivals)
    again = unpack_merchant(pack_merchant(state), complete_from_ms=5)
    assert contents_of(layout, again) == contents_of(layout, state)
    assert pack_merchant(again) == pack_merchant(state)
    assert again.complete_from_ms == 5


naturals = st.one_of(
    st.integers(0, 3), st.integers(0, 300), st.sampled_from([255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), naturals.map(lambda number: number + 1), naturals), max_size=60),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(-50, 50), naturals.filter(bool), st.booleans()), max_size=30),
)
def test_numbers_of_any_size_come_back(
    tiles: list[tuple[int, int, int]], frauds: list[tuple[int, int, int, bool]]
) -> None:
    """Columns of any mixture of widths; counts below 2^64 as the sums."""
    ends = [sum(gap for gap, _, _ in tiles[: place + 1]) for place in range(len(tiles))]
    counts = [min(count, 2**64 - 1) for _, count, _ in tiles]
    fine = PurchaseTiles(ends, counts, [total for _, _, total in tiles])
    keys = sorted({(event, event + max(after, 0)) for event, after, _, _ in frauds})
    nets = [min(net, 2**62) * (1 if up else -1) for _, _, net, up in frauds][: len(keys)]
    state = MerchantState(7, 3, 5, fine, PurchaseTiles(), FraudTiles(keys, nets), None)
    again = unpack_merchant(pack_merchant(state))
    assert (again.newest_ms, again.first_ms, again.first_effective_ms) == (7, 3, 5)
    assert (again.fine.ends, again.fine.counts, again.fine.sums) == (ends, counts, fine.sums)
    assert (again.frauds.keys, again.frauds.nets) == (keys, nets)
    assert again.coarse.ends == []


def test_a_median_merchant_fits_one_write_unit() -> None:
    """40 purchases in a month."""
    arrivals = [Effect(FAR_MS + number * 60_000_000, number * 997 % 20_000, 0) for number in range(40)]
    layout = MerchantLayout(38 * 86_400_000, 1_000, None, None, 1_000)
    assert len(pack_merchant(state_of(layout, arrivals))) < 512


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    packed = bytearray(a_packed_state())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StateCorrupt):
        unpack_merchant(bytes(packed))


@pytest.mark.parametrize("length", [0, 3, 20, 45, -1])
def test_a_cut_state_is_corrupt(length: int) -> None:
    with pytest.raises(StateCorrupt):
        unpack_merchant(a_packed_state()[:length])


def checked(body: bytes) -> bytes:
    return struct.pack("<I", crc32(body)) + body


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 5])
def test_a_state_with_more_bytes_than_its_header_says_is_corrupt_even_if_they_check(tail: bytes) -> None:
    with pytest.raises(StateCorrupt, match="length"):
        unpack_merchant(checked(a_packed_state()[4:] + tail))


@pytest.mark.parametrize("cut", range(1, 200, 7))
def test_a_state_with_fewer_bytes_than_its_header_says_is_corrupt_even_if_they_check(cut: int) -> None:
    with pytest.raises(StateCorrupt, match="header"):
        unpack_merchant(checked(a_packed_state()[4:-cut]))


def test_another_codec_version_is_refused() -> None:
    with pytest.raises(StateCorrupt, match="version"):
        unpack_merchant(checked(bytes([CODEC_VERSION + 1]) + a_packed_state()[5:]))


def test_a_column_that_no_state_can_have_is_corrupt_and_takes_no_memory() -> None:
    """Zeros take no bytes each: a header that said 4 billion of them made the reader fill the memory."""
    body = bytearray(pack_merchant(MerchantState.empty())[4:])
    body[2:6] = struct.pack("<I", 2**32 - 1)
    with pytest.raises(StateCorrupt, match="a column of 4294967295 numbers"):
        unpack_merchant(struct.pack("<I", crc32(body)) + bytes(body))
