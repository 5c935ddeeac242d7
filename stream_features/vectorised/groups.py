"""Rows sorted by entity, cut into blocks of whole entities that fit the processor's cache and 64-bit keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

BLOCK_ROWS: Final = 1 << 17
_KEY_LIMIT: Final = 2**62


def by_entity(codes: Integers) -> Integers:
    """Rows ordered by entity and, within one, as they arrived."""
    if int(codes.max(initial=0)) < 2**16:
        return np.argsort(codes.astype(np.uint16), kind="stable")  # 16 bits are sorted by radix, four times faster
    return np.argsort(codes, kind="stable")


def starts_of(sorted_codes: Integers) -> Integers:
    """Where each entity begins among rows sorted by entity."""
    return np.flatnonzero(np.append(True, sorted_codes[1:] != sorted_codes[:-1])[: len(sorted_codes)])


def blocks(starts: Integers, rows: int, span_ms: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows: whole entities, and few enough of them that `Timeline` can number entity and time together.

    Args:
        starts: where each entity begins.
        rows: how many rows there are.
        span_ms: from the first to the last event time.
    """
    most_entities = _KEY_LIMIT // (span_ms + 3)
    ends = np.append(starts[1:], rows)
    first = 0
    while first < len(starts):
        begin = int(starts[first])
        beyond = int(np.searchsorted(ends, begin + BLOCK_ROWS, side="right"))
        beyond = min(max(beyond, first + 1), first + most_entities)
        yield begin, int(ends[beyond - 1])
        first = beyond


class Timeline:
    """Moments of several entities on one axis, so that one search finds places in all of them.

    Args:
        entity: shape (n,), the entity of each moment, 0, 1, ... ascending.
        moments_ms: shape (n,), not decreasing within an entity.
        first_ms: no moment is earlier.
        span_ms: from the first to the last moment of any entity.
    """

    def __init__(self, entity: Integers, moments_ms: Integers, first_ms: int, span_ms: int) -> None:
        self._first_ms = first_ms
        self._span_ms = span_ms
        self._keys = self._key(entity, moments_ms)

    def _key(self, entity: Integers, moments_ms: Integers) -> Integers:
        # before the first moment: 0; after the last one: span + 2, still below the next entity's 0
        key = np.subtract(moments_ms, self._first_ms - 1)
        np.clip(key, 0, self._span_ms + 2, out=key)
        key += entity * (self._span_ms + 3)
        return key

    def up_to(self, entity: Integers, moments_ms: Integers) -> Integers:
        """How many moments of all entities before, and of this one up to and including `moments_ms`, there are."""
        return np.searchsorted(self._keys, self._key(entity, moments_ms), side="right")
