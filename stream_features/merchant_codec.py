"""Merchant state as bytes: a header, then columns, each as narrow as most of its numbers allow.

One state has exactly one packed form, so equal states have equal bytes. Little-endian. The checksum covers everything
after itself; bytes that do not check are never guessed at.

    checksum u32 | version u8 | flags u8 | fine tiles, coarse tiles, fraud tiles u32 | newest, first, first effective
    i64 | fine: ends, counts, sums | coarse: ends, counts, sums | frauds: event tiles, effective tiles, nets

A column is `width u8 | exceptions u32 | numbers of that width | exceptions: index u32 ..., value u64 ...`: numbers that
do not fit stand as 0 in their place and among the exceptions. The width (0, 1, 2, 4 or 8 bytes) is the narrowest of
those that give the fewest bytes. Ends are stored as distances from the one before, less what they are at least;
counts less 1; effective tiles as distances from their event's tile; nets zigzag, so that all numbers are natural.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final
from zlib import crc32

from stream_features.errors import StateCorrupt
from stream_features.merchant_state import FraudTiles, MerchantState, PurchaseTiles

CODEC_VERSION: Final = 1
HAS_PURCHASES: Final = 1
HAS_FRAUDS: Final = 2

_CHECKSUM: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<BBIIIqqq")
_COLUMN: Final = struct.Struct("<BI")
_START: Final = _CHECKSUM.size + _HEADER.size
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_EXCEPTION_BYTES: Final = 12
# A purchase in every second of seven weeks: no state has as many tiles, and a column of zeros takes no byte each.
_MOST_NUMBERS: Final = 1 << 22
_WIDTHS: Final = (0, 1, 2, 4, 8)
_LIMITS: Final = (1, 1 << 8, 1 << 16, 1 << 32)  # the least number that does not fit, but for the widest
_NO_NUMBERS: Final = _COLUMN.pack(0, 0)

if sys.byteorder != "little":  # arrays are copied as they lie in memory
    raise ImportError("merchant state is packed little-endian; this machine is not")


def pack_merchant(state: MerchantState) -> bytes:
    """The one packed form of `state`."""
    frauds = state.frauds
    flags = (HAS_PURCHASES if state.newest_ms is not None else 0) | (
        HAS_FRAUDS if state.first_effective_ms is not None else 0
    )
    body = b"".join(
        (
            _HEADER.pack(
                CODEC_VERSION,
                flags,
                len(state.fine.ends),
                len(state.coarse.ends),
                len(frauds.keys),
                state.newest_ms or 0,
                state.first_ms or 0,
                state.first_effective_ms or 0,
            ),
            *_packed_tiles(state.fine),
            *_packed_tiles(state.coarse),
            _column(_gaps([event for event, _ in frauds.keys], 0)),
            _column([effective - event for event, effective in frauds.keys]),
            _column([2 * net if net > 0 else -2 * net - 1 for net in frauds.nets]),
        )
    )
    return _CHECKSUM.pack(crc32(body)) + body


def unpack_merchant(packed: bytes, complete_from_ms: int | None = None) -> MerchantState:
    """The state that `pack_merchant` wrote.

    Args:
        packed: bytes from `pack_merchant`.
        complete_from_ms: stored beside the state, not in it.

    Raises:
        StateCorrupt: wrong checksum, length or codec version.
    """
    if len(packed) < _START:
        raise StateCorrupt(f"merchant state of {len(packed)} bytes has no header")
    if _CHECKSUM.unpack_from(packed)[0] != crc32(memoryview(packed)[_CHECKSUM.size :]):
        raise StateCorrupt("merchant state fails its checksum")
    version, flags, fine, coarse, frauds, newest_ms, first_ms, first_effective_ms = _HEADER.unpack_from(
        packed, _CHECKSUM.size
    )
    if version != CODEC_VERSION:
        raise StateCorrupt(f"merchant state of codec version {version}, this code reads {CODEC_VERSION}")
    reader = _Reader(packed, _START)
    fine_tiles, coarse_tiles = reader.tiles(fine), reader.tiles(coarse)
    events = list(accumulate(reader.column(frauds)))
    effective = [event + after for event, after in zip(events, reader.column(frauds), strict=True)]
    nets = [number // 2 if number % 2 == 0 else -(number // 2) - 1 for number in reader.column(frauds)]
    if reader.at != len(packed):
        raise StateCorrupt(f"merchant state of {len(packed)} bytes has another length than its header says")
    return MerchantState(
        newest_ms if flags & HAS_PURCHASES else None,
        first_ms if flags & HAS_PURCHASES else None,
        first_effective_ms if flags & HAS_FRAUDS else None,
        fine_tiles,
        coarse_tiles,
        FraudTiles(list(zip(events, effective, strict=True)), nets),
        complete_from_ms,
    )


def _packed_tiles(tiles: PurchaseTiles) -> tuple[bytes, bytes, bytes]:
    return _column(_gaps(tiles.ends, 1)), _column([count - 1 for count in tiles.counts]), _column(tiles.sums)


def _gaps(numbers: list[int], least: int) -> list[int]:
    """The distances between ascending numbers, less `least`; the first is counted from 0."""
    if not numbers:
        return []
    return [numbers[0], *(after - before - least for before, after in pairwise(numbers))]


def _column(numbers: Sequence[int]) -> bytes:
    if not numbers:
        return _NO_NUMBERS
    count = len(numbers)
    width, exceptions = bisect_right(_LIMITS, max(numbers)), 0
    size = count * _WIDTHS[width]
    if size >= _EXCEPTION_BYTES:  # else a narrower width saves less than its first exception costs
        ordered = sorted(numbers)
        for narrower in range(width):
            beyond = count - bisect_left(ordered, _LIMITS[narrower])
            narrow_size = count * _WIDTHS[narrower] + _EXCEPTION_BYTES * beyond
            if narrow_size < size or (narrow_size == size and not exceptions):
                size, width, exceptions = narrow_size, narrower, beyond
    width = _WIDTHS[width]
    limit = 256**width
    if not exceptions:
        return _COLUMN.pack(width, 0) + (array(_CODES[width], numbers).tobytes() if width else b"")
    places = [place for place, number in enumerate(numbers) if number >= limit]
    values = array("Q", [numbers[place] for place in places]).tobytes()
    narrow = b""
    if width:
        narrow = array(_CODES[width], [number if number < limit else 0 for number in numbers]).tobytes()
    return b"".join((_COLUMN.pack(width, exceptions), narrow, array("I", places).tobytes(), values))


class _Reader:
    """Reads columns one after the other.

    Attributes:
        at: where the next one starts.
    """

    __slots__ = ("at", "packed")

    def __init__(self, packed: bytes, at: int) -> None:
        self.packed = packed
        self.at = at

    def tiles(self, count: int) -> PurchaseTiles:
        gaps = self.column(count)
        if gaps:
            gaps = [gaps[0], *(gap + 1 for gap in gaps[1:])]
        return PurchaseTiles(list(accumulate(gaps)), [number + 1 for number in self.column(count)], self.column(count))

    def column(self, count: int) -> list[int]:
        """The next column, of `count` numbers.

        Raises:
            StateCorrupt: it does not fit into what is there, or into any state.
        """
        if count > _MOST_NUMBERS:
            raise StateCorrupt(f"merchant state with a column of {count} numbers")
        if not count and self.packed.startswith(_NO_NUMBERS, self.at):
            self.at += len(_NO_NUMBERS)
            return []
        if self.at + _COLUMN.size > len(self.packed):
            raise StateCorrupt("merchant state is shorter than its header says")
        width, exceptions = _COLUMN.unpack_from(self.packed, self.at)
        start = self.at + _COLUMN.size
        places_at = start + width * count
        values_at = places_at + 4 * exceptions
        self.at = values_at + 8 * exceptions
        if self.at > len(self.packed) or (width and width not in _CODES):
            raise StateCorrupt("merchant state is shorter than its header says")
        numbers = array(_CODES[width], self.packed[start:places_at]).tolist() if width else [0] * count
        if not exceptions:
            return numbers
        for place, number in zip(
            array("I", self.packed[places_at:values_at]), array("Q", self.packed[values_at : self.at]), strict=True
        ):
            if place >= count:
                raise StateCorrupt("merchant state has an exception outside its column")
            numbers[place] = number
        return numbers
