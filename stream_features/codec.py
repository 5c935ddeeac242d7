"""Card state as bytes: a header, then columns back to back, so that reading and writing are a few bulk copies.

One state has exactly one packed form, so equal states have equal bytes. Little-endian, the maps' values excepted. The
checksum covers everything after itself; bytes that do not check are never guessed at.

    checksum u32 | version u8 | flags u8 | entries u16 | merchants u16 | countries u16 | minute tiles, hour tiles u16 |
    base i64 | merged time i64 | merged id u64 | times u32 | amounts u32 or u64 | rest of the entries |
    merchants: times u32, hashes u64 | countries: times u32, codes u16 | minutes, hours: start u32, count u32, sum u64,
    largest u64
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final
from zlib import crc32

from stream_features.card_state import COUNTRY_WIDTH, MERCHANT_WIDTH, REST, U32_LIMIT, CardState
from stream_features.errors import StateCorrupt
from stream_features.last_seen import LastSeen
from stream_features.tiles import Merged, Tiles

CODEC_VERSION: Final = 1
WIDE_AMOUNTS: Final = 1
HAS_MERGED: Final = 2

_CHECKSUM: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<BBHHHHHqqQ")
_CHECKED_HEADER: Final = struct.Struct("<IBBHHHHHqqQ")
_START: Final = _CHECKED_HEADER.size

if sys.byteorder != "little":  # arrays are copied as they lie in memory
    raise ImportError("card state is packed little-endian; this machine is not")


def pack(state: CardState) -> bytes:
    """The one packed form of `state`."""
    amounts = state.amounts
    flags = 0
    if amounts.typecode == "Q":
        if max(amounts, default=0) < U32_LIMIT:
            amounts = array("I", amounts)
        else:
            flags = WIDE_AMOUNTS
    merchant_last, country_last, merged = state.merchant_last, state.country_last, state.merged
    columns = b"".join(
        (
            state.times,
            amounts,
            state.rest,
            merchant_last.times,
            merchant_last.values,
            country_last.times,
            country_last.values,
        )
    )
    sizes = len(state.times), len(merchant_last.times), len(country_last.times)
    if merged is None:
        body = _HEADER.pack(CODEC_VERSION, flags, *sizes, 0, 0, state.base_ms, 0, 0) + columns
    else:
        minutes, hours = merged.minutes, merged.hours
        body = b"".join(
            (
                _HEADER.pack(
                    CODEC_VERSION,
                    flags | HAS_MERGED,
                    *sizes,
                    len(minutes.starts),
                    len(hours.starts),
                    state.base_ms,
                    merged.time_ms,
                    merged.id_hash,
                ),
                columns,
                *(minutes.starts, minutes.counts, minutes.sums, minutes.largest),
                *(hours.starts, hours.counts, hours.sums, hours.largest),
            )
        )
    return _CHECKSUM.pack(crc32(body)) + body


def unpack(packed: bytes, complete_from_ms: int | None = None) -> CardState:
    """The state that `pack` wrote.

    Args:
        packed: bytes from `pack`.
        complete_from_ms: stored beside the state, not in it.

    Raises:
        StateCorrupt: wrong checksum, length or codec version.
    """
    if len(packed) < _START:
        raise StateCorrupt(f"card state of {len(packed)} bytes has no header")
    (checksum, version, flags, entries, merchants, countries, minutes, hours, base_ms, merged_time_ms, merged_id) = (
        _CHECKED_HEADER.unpack_from(packed)
    )
    if checksum != crc32(memoryview(packed)[4:]):
        raise StateCorrupt("card state fails its checksum")
    if version != CODEC_VERSION:
        raise StateCorrupt(f"card state of codec version {version}, this code reads {CODEC_VERSION}")
    amount_code, amount_width = ("Q", 8) if flags & WIDE_AMOUNTS else ("I", 4)
    times_end = _START + 4 * entries
    amounts_end = times_end + amount_width * entries
    rest_end = amounts_end + REST.size * entries
    merchant_times_end = rest_end + 4 * merchants
    merchants_end = merchant_times_end + MERCHANT_WIDTH * merchants
    country_times_end = merchants_end + 4 * countries
    end = country_times_end + COUNTRY_WIDTH * countries
    merged = None
    if flags & HAS_MERGED:
        merged = Merged(merged_time_ms, merged_id)
        hours_start = _unpack_tiles(merged.minutes, minutes, packed, end)
        if _unpack_tiles(merged.hours, hours, packed, hours_start) != len(packed):
            raise StateCorrupt(f"card state of {len(packed)} bytes has another length than its header says")
    elif end != len(packed):
        raise StateCorrupt(f"card state of {len(packed)} bytes has another length than its header says")
    return CardState(
        base_ms,
        array("I", packed[_START:times_end]),
        array(amount_code, packed[times_end:amounts_end]),
        packed[amounts_end:rest_end],
        LastSeen(
            MERCHANT_WIDTH, array("I", packed[rest_end:merchant_times_end]), packed[merchant_times_end:merchants_end]
        ),
        LastSeen(COUNTRY_WIDTH, array("I", packed[merchants_end:country_times_end]), packed[country_times_end:end]),
        merged,
        complete_from_ms,
    )


def _unpack_tiles(tiles: Tiles, count: int, packed: bytes, at: int) -> int:
    counts_at, sums_at, largest_at, end = at + 4 * count, at + 8 * count, at + 16 * count, at + 24 * count
    if end > len(packed):
        raise StateCorrupt("card state is shorter than its header says")
    tiles.starts = array("I", packed[at:counts_at])
    tiles.counts = array("I", packed[counts_at:sums_at])
    tiles.sums = array("Q", packed[sums_at:largest_at])
    tiles.largest = array("Q", packed[largest_at:end])
    return end
