"""Merged purchases: count, sum and largest amount by minute or hour."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000


class Tiles:
    """Merged purchases by tile, sorted by start. Starts are counted in tiles since the epoch."""

    __slots__ = ("counts", "largest", "starts", "sums")

    def __init__(self) -> None:
        self.starts = array("I")
        self.counts = array("I")
        self.sums = array("Q")
        self.largest = array("Q")

    def add(self, start: int, count: int, total: int, largest: int) -> None:
        starts = self.starts
        index = bisect_left(starts, start)
        if index < len(starts) and starts[index] == start:
            self.counts[index] += count
            self.sums[index] += total
            self.largest[index] = max(self.largest[index], largest)
        else:
            starts.insert(index, start)
            self.counts.insert(index, count)
            self.sums.insert(index, total)
            self.largest.insert(index, largest)

    def drop_before(self, start: int) -> None:
        index = bisect_left(self.starts, start)
        if index:
            for column in (self.starts, self.counts, self.sums, self.largest):
                del column[:index]

    def take_first(self) -> tuple[int, int, int, int]:
        return self.starts.pop(0), self.counts.pop(0), self.sums.pop(0), self.largest.pop(0)


class Merged:
    """What a card's older purchases became.

    Attributes:
        time_ms: event time of the newest merged purchase.
        id_hash: its id.
        minutes: tiles of one minute.
        hours: tiles of one hour; a purchase is in one tile only.
    """

    __slots__ = ("hours", "id_hash", "minutes", "time_ms")

    def __init__(self, time_ms: int, id_hash: int) -> None:
        self.time_ms = time_ms
        self.id_hash = id_hash
        self.minutes = Tiles()
        self.hours = Tiles()
