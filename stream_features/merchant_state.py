"""What is remembered of one merchant: a function of the *set* of purchases and fraud entries seen, in whatever order.

    older                                                                             newest
    |-- coarse tiles (core: 1 h) ---------------|-- fine tiles (core: 1 min, handbook: 1 s) --|
    cut (a whole hour)                          newest - fine_behind

* A tile is closed on the right: a purchase belongs to the tile that ends at ceil(event time / L) * L. Tiles hold count
  and sum; they are named by their end, counted in tiles since the epoch.
* Purchases at or before `cut` = floor_hour(newest - retention) are forgotten, and not taken in again.
* Frauds are net counts by (tile of the event, tile in which the report takes effect); zeros are left out. A report
  that takes effect before any window can look at its event counts as if it had taken effect in the event's own tile:
  no value changes by that, and reports of one hour share one entry.
* Two instants say what can no longer be seen in tiles, for whoever loads history beside a stream: `first_ms` and
  `first_effective_ms`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HOUR_MS: Final = 3_600_000
LABEL_EFFECT_MS: Final = 120_000  # a label takes effect this long after it was reported
LAYOUT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class MerchantLayout:
    """The grid and bounds of a merchant's state. Another layout is another state: it has to be migrated.

    Attributes:
        retention_ms: how long before the newest purchase a purchase is kept, rounded out to whole hours.
        tile_ms: length of a fine tile.
        fine_behind_ms: a fine tile that ends this far behind the newest purchase becomes coarse; None: never.
        coarse_tile_ms: length of a coarse tile; None where there are none.
        fraud_tile_ms: length of the tiles of frauds.
        settled_ms: reports that take effect by the end of their event's tile plus this need no tile of their own; at
            most the smallest delay of the windows that count frauds.

    Raises:
        ValueError: lengths that do not nest into whole hours, or half a coarse grid.
    """

    retention_ms: int
    tile_ms: int
    fine_behind_ms: int | None
    coarse_tile_ms: int | None
    fraud_tile_ms: int
    settled_ms: int = 0

    def __post_init__(self) -> None:
        if min(self.retention_ms, self.tile_ms, self.fraud_tile_ms) < 1 or self.settled_ms < 0:
            raise ValueError("every length of a merchant layout is at least 1 ms")
        if (self.fine_behind_ms is None) != (self.coarse_tile_ms is None):
            raise ValueError("fine_behind_ms and coarse_tile_ms come together")
        if self.coarse_tile_ms is not None and (self.coarse_tile_ms < 1 or self.coarse_tile_ms % self.tile_ms):
            raise ValueError("a coarse tile is made of whole fine tiles")
        if self.fine_behind_ms is not None and self.fine_behind_ms < 0:
            raise ValueError("fine_behind_ms is at least 0")
        for length_ms in (self.tile_ms, self.coarse_tile_ms or self.tile_ms, self.fraud_tile_ms):
            if HOUR_MS % length_ms:
                raise ValueError("an hour is made of whole tiles")

    @property
    def layout_id(self) -> str:
        """Names version, grid and bounds, as `entity_state` stores it."""
        bounds = (
            f"{self.retention_ms},{self.tile_ms},{self.fine_behind_ms},{self.coarse_tile_ms},{self.fraud_tile_ms},"
            f"{self.settled_ms}"
        )
        return f"merchant-{LAYOUT_VERSION}-{hashlib.sha256(bounds.encode()).hexdigest()[:12]}"

    def cut_ms(self, newest_ms: int) -> int:
        """The end of the newest hour that is forgotten."""
        return (newest_ms - self.retention_ms) // HOUR_MS * HOUR_MS

    def tile(self, event_time_ms: int) -> int:
        """The fine tile of an event."""
        return -(-event_time_ms // self.tile_ms)

    def fraud_tile(self, instant_ms: int) -> int:
        """The fraud tile of an instant."""
        return -(-instant_ms // self.fraud_tile_ms)


class PurchaseTiles:
    """Count and sum by tile, sorted.

    Attributes:
        ends: tile ends, in tiles since the epoch; `counts` and `sums` (US cents) run parallel.
        counts: purchases.
        sums: US cents.
    """

    __slots__ = ("counts", "ends", "sums")

    def __init__(
        self, ends: list[int] | None = None, counts: list[int] | None = None, sums: list[int] | None = None
    ) -> None:
        self.ends: list[int] = [] if ends is None else ends
        self.counts: list[int] = [] if counts is None else counts
        self.sums: list[int] = [] if sums is None else sums

    def add(self, end: int, count: int, total: int) -> None:
        ends = self.ends
        index = len(ends) if not ends or end > ends[-1] else bisect_left(ends, end)
        if index < len(ends) and ends[index] == end:
            self.counts[index] += count
            self.sums[index] += total
        else:
            ends.insert(index, end)
            self.counts.insert(index, count)
            self.sums.insert(index, total)

    def take_upto(self, end: int) -> list[tuple[int, int, int]]:
        """Remove the tiles up to and including `end`; returns (end, count, sum) of each."""
        index = bisect_right(self.ends, end)
        taken = list(zip(self.ends[:index], self.counts[:index], self.sums[:index], strict=True))
        if index:
            del self.ends[:index], self.counts[:index], self.sums[:index]
        return taken


class FraudTiles:
    """Net frauds by (event tile, effective tile), sorted; no zeros.

    Attributes:
        keys: (event tile, effective tile), in fraud tiles since the epoch; `nets` runs parallel.
        nets: frauds minus withdrawn frauds.
    """

    __slots__ = ("keys", "nets")

    def __init__(self, keys: list[tuple[int, int]] | None = None, nets: list[int] | None = None) -> None:
        self.keys: list[tuple[int, int]] = [] if keys is None else keys
        self.nets: list[int] = [] if nets is None else nets

    def add(self, key: tuple[int, int], delta: int) -> None:
        index = bisect_left(self.keys, key)
        if index == len(self.keys) or self.keys[index] != key:
            self.keys.insert(index, key)
            self.nets.insert(index, delta)
            return
        self.nets[index] += delta
        if not self.nets[index]:
            del self.keys[index], self.nets[index]

    def drop_upto(self, event_tile: int) -> None:
        index = bisect_left(self.keys, (event_tile + 1, -1))
        if index:
            del self.keys[:index], self.nets[:index]


class MerchantState:
    """One merchant's memory. Mutable; `add` and `add_fraud` keep it canonical.

    Attributes:
        newest_ms: event time of the newest purchase; None before the first. Labels do not move it.
        first_ms: event time of the oldest purchase that ever came, or the cut where that is later; None before one.
        first_effective_ms: the earliest instant at which a fraud entry that ever came takes effect (to the ms, not
            to the tile); None before one.
        fine: younger purchases.
        coarse: older purchases; a purchase is in one tile only.
        frauds: net frauds.
        complete_from_ms: purchases before this instant and labels reported before it were loaded whole and are not
            taken in again; not packed.
    """

    __slots__ = ("coarse", "complete_from_ms", "fine", "first_effective_ms", "first_ms", "frauds", "newest_ms")

    def __init__(
        self,
        newest_ms: int | None,
        first_ms: int | None,
        first_effective_ms: int | None,
        fine: PurchaseTiles,
        coarse: PurchaseTiles,
        frauds: FraudTiles,
        complete_from_ms: int | None,
    ) -> None:
        self.newest_ms = newest_ms
        self.first_ms = first_ms
        self.first_effective_ms = first_effective_ms
        self.fine = fine
        self.coarse = coarse
        self.frauds = frauds
        self.complete_from_ms = complete_from_ms

    @classmethod
    def empty(cls, complete_from_ms: int | None = None) -> MerchantState:
        """A merchant of which nothing is known."""
        return cls(None, None, None, PurchaseTiles(), PurchaseTiles(), FraudTiles(), complete_from_ms)

    @property
    def is_empty(self) -> bool:
        """Whether neither a purchase nor a fraud entry ever came."""
        return self.newest_ms is None and self.first_effective_ms is None

    def add(self, layout: MerchantLayout, event_time_ms: int, amount_base: int) -> bool:
        """Take in a purchase, which the caller gives once.

        Args:
            layout: the grid and bounds of this state; always the same for one state.
            event_time_ms: when it happened, epoch ms.
            amount_base: US cents.

        Returns:
            Whether the state changed. One that lies before `complete_from_ms` changes nothing, one that is older than
            retention at most `first_ms`.
        """
        if self.complete_from_ms is not None and event_time_ms < self.complete_from_ms:
            return False
        newest_ms = self.newest_ms
        if newest_ms is None or event_time_ms > newest_ms:
            self.newest_ms = newest_ms = event_time_ms
            self._advance(layout, newest_ms)
        cut_ms = layout.cut_ms(newest_ms)
        before_ms = self.first_ms
        self.first_ms = max(event_time_ms if before_ms is None else min(before_ms, event_time_ms), cut_ms)
        if event_time_ms <= cut_ms:
            return self.first_ms != before_ms
        self._count(layout, newest_ms, layout.tile(event_time_ms), 1, amount_base)
        return True

    def add_fraud(self, layout: MerchantLayout, event_time_ms: int, effective_ms: int, delta: int) -> bool:
        """Take in a fraud entry, which the caller gives once, or take one back with the opposite `delta`.

        Args:
            layout: the grid and bounds of this state.
            event_time_ms: when the purchase happened, epoch ms.
            effective_ms: when the report takes effect, epoch ms: `LABEL_EFFECT_MS` after it was made.
            delta: +1 for fraud, -1 for fraud withdrawn.

        Returns:
            Whether the state changed. One reported before `complete_from_ms` changes nothing, one whose event is older
            than retention at most `first_effective_ms`.
        """
        if self.complete_from_ms is not None and effective_ms < self.complete_from_ms + LABEL_EFFECT_MS:
            return False
        before_ms = self.first_effective_ms
        self.first_effective_ms = effective_ms if before_ms is None else min(before_ms, effective_ms)
        if self.newest_ms is not None and event_time_ms <= layout.cut_ms(self.newest_ms):
            return self.first_effective_ms != before_ms
        event_tile, effective_tile = layout.fraud_tile(event_time_ms), layout.fraud_tile(effective_ms)
        if (effective_tile - event_tile) * layout.fraud_tile_ms <= layout.settled_ms:
            effective_tile = event_tile
        self.frauds.add((event_tile, effective_tile), delta)
        return True

    def purchases_in(self, layout: MerchantLayout, time_ms: int, windows: Sequence[tuple[int, int]]) -> list[int]:
        """Purchases in tiles that end in (after, upto], asked as of a transaction at `time_ms`, for each window.

        The tiles are those the state would have if the merchant's newest purchase were not before `time_ms`: an answer
        must not depend on whether a purchase of the last seconds has reached the state yet and made tiles coarse.

        Args:
            layout: the grid and bounds of this state.
            time_ms: when the transaction happens, epoch ms.
            windows: (after, upto] of each, epoch ms.
        """
        tile_ms, coarse_ms, behind_ms = layout.tile_ms, layout.coarse_tile_ms, layout.fine_behind_ms
        ends, counts = self.fine.ends, self.fine.counts
        oldest, newest = (ends[0] * tile_ms, ends[-1] * tile_ms) if ends else (0, 0)
        if coarse_ms is None or behind_ms is None:
            return [
                sum(counts[bisect_right(ends, after_ms // tile_ms) : bisect_right(ends, upto_ms // tile_ms)])
                if oldest <= upto_ms and newest > after_ms
                else 0
                for after_ms, upto_ms in windows
            ]
        newest_ms = time_ms if self.newest_ms is None or self.newest_ms < time_ms else self.newest_ms
        folded = (newest_ms - behind_ms) // tile_ms  # up to this fine tile the coarse tile's end decides
        folded_ms = folded * tile_ms
        coarse_ends = self.coarse.ends
        oldest_coarse, newest_coarse = (
            (coarse_ends[0] * coarse_ms, coarse_ends[-1] * coarse_ms) if coarse_ends else (0, 0)
        )
        found = []
        for after_ms, upto_ms in windows:
            count = 0
            if oldest <= upto_ms and newest > after_ms - coarse_ms:
                if upto_ms > folded_ms:
                    first = after_ms // tile_ms
                    if first < folded:
                        first = folded
                    count = sum(counts[bisect_right(ends, first) : bisect_right(ends, upto_ms // tile_ms)])
                if after_ms < folded_ms:
                    first = after_ms // coarse_ms * coarse_ms // tile_ms
                    last = min(folded, upto_ms // coarse_ms * coarse_ms // tile_ms)
                    count += sum(counts[bisect_right(ends, first) : bisect_right(ends, last)])
            if oldest_coarse <= upto_ms and newest_coarse > after_ms:
                first = bisect_right(coarse_ends, after_ms // coarse_ms)
                count += sum(self.coarse.counts[first : bisect_right(coarse_ends, upto_ms // coarse_ms)])
            found.append(count)
        return found

    def purchases_between(self, layout: MerchantLayout, time_ms: int, after_ms: int, upto_ms: int) -> int:
        """See `purchases_in`, for one window."""
        return self.purchases_in(layout, time_ms, ((after_ms, upto_ms),))[0]

    def frauds_between(self, layout: MerchantLayout, time_ms: int, after_ms: int, upto_ms: int) -> int:
        """Net frauds whose event tile ends in (after_ms, upto_ms] and that are in effect at `time_ms`."""
        keys = self.frauds.keys
        if not keys:
            return 0
        tile_ms = layout.fraud_tile_ms
        known = time_ms // tile_ms
        first = bisect_left(keys, (after_ms // tile_ms + 1, -1))
        end = bisect_left(keys, (upto_ms // tile_ms + 1, -1))
        nets = self.frauds.nets
        return sum(nets[index] for index in range(first, end) if keys[index][1] <= known)

    def absorb(self, layout: MerchantLayout, other: MerchantState) -> None:
        """Add what `other` holds, of the same layout; nothing may be in both. `other` stays as it is."""
        newest_ms = max((state.newest_ms for state in (self, other) if state.newest_ms is not None), default=None)
        if newest_ms is not None:
            self.newest_ms = newest_ms
            self._advance(layout, newest_ms)
            cut_ms = layout.cut_ms(newest_ms)
            firsts = [state.first_ms for state in (self, other) if state.first_ms is not None]
            self.first_ms = max(min(firsts), cut_ms)
            for end, count, total in zip(other.fine.ends, other.fine.counts, other.fine.sums, strict=True):
                if end * layout.tile_ms > cut_ms:
                    self._count(layout, newest_ms, end, count, total)
            for end, count, total in zip(other.coarse.ends, other.coarse.counts, other.coarse.sums, strict=True):
                if end * (layout.coarse_tile_ms or 0) > cut_ms:
                    self.coarse.add(end, count, total)
        for key, net in zip(other.frauds.keys, other.frauds.nets, strict=True):
            if newest_ms is None or key[0] * layout.fraud_tile_ms > layout.cut_ms(newest_ms):
                self.frauds.add(key, net)
        effective = [s.first_effective_ms for s in (self, other) if s.first_effective_ms is not None]
        self.first_effective_ms = min(effective, default=None)

    def _count(self, layout: MerchantLayout, newest_ms: int, tile: int, count: int, total: int) -> None:
        behind_ms, coarse_ms = layout.fine_behind_ms, layout.coarse_tile_ms
        if behind_ms is not None and coarse_ms is not None and tile * layout.tile_ms <= newest_ms - behind_ms:
            self.coarse.add(-(-tile * layout.tile_ms // coarse_ms), count, total)
        else:
            self.fine.add(tile, count, total)

    def _advance(self, layout: MerchantLayout, newest_ms: int) -> None:
        """Forget what lies up to the cut of `newest_ms`; fold fine tiles that are now too old."""
        cut_ms = layout.cut_ms(newest_ms)
        fine, coarse, frauds = self.fine, self.coarse, self.frauds
        if fine.ends and fine.ends[0] * layout.tile_ms <= cut_ms:
            fine.take_upto(cut_ms // layout.tile_ms)
        if frauds.keys and frauds.keys[0][0] * layout.fraud_tile_ms <= cut_ms:
            frauds.drop_upto(cut_ms // layout.fraud_tile_ms)
        behind_ms, coarse_ms = layout.fine_behind_ms, layout.coarse_tile_ms
        if behind_ms is None or coarse_ms is None:
            return
        if coarse.ends and coarse.ends[0] * coarse_ms <= cut_ms:
            coarse.take_upto(cut_ms // coarse_ms)
        folded = (newest_ms - behind_ms) // layout.tile_ms
        if fine.ends and fine.ends[0] <= folded:
            for end, count, total in fine.take_upto(folded):
                coarse.add(-(-end * layout.tile_ms // coarse_ms), count, total)
