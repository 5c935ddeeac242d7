"""One merchant by the letter: a list of everything ever taken in, looked at anew for every question. Tiles included."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stream_features.merchant_state import MerchantLayout, MerchantState

HOUR = 3_600_000
LABEL_EFFECT = 120_000


class SlowMerchant:
    def __init__(self, layout: MerchantLayout, complete_from_ms: int | None = None) -> None:
        self.layout = layout
        self.complete_from_ms = complete_from_ms
        self.purchases: list[tuple[int, int]] = []  # event time, amount
        self.entries: list[tuple[int, int, int]] = []  # event time, takes effect, change

    def add(self, time: int, amount: int) -> None:
        if self.complete_from_ms is None or time >= self.complete_from_ms:
            self.purchases.append((time, amount))

    def add_fraud(self, time: int, effective: int, delta: int) -> None:
        if self.complete_from_ms is None or effective - LABEL_EFFECT >= self.complete_from_ms:
            self.entries.append((time, effective, delta))

    @property
    def newest(self) -> int | None:
        return max((time for time, _ in self.purchases), default=None)

    def is_forgotten(self, time: int) -> bool:
        """The hour that holds it, closed on the right, ends at or before newest - retention."""
        return self.newest is not None and up(time, HOUR) <= self.newest - self.layout.retention_ms

    def is_coarse(self, time: int, now: int | None = None) -> bool:
        newest = max(x for x in (self.newest, now) if x is not None)
        behind = self.layout.fine_behind_ms
        return behind is not None and up(time, self.layout.tile_ms) <= newest - behind

    def contents(self) -> dict[str, Any]:
        fine: dict[int, list[int]] = {}
        coarse: dict[int, list[int]] = {}
        for time, amount in self.purchases:
            if self.is_forgotten(time):
                continue
            if self.is_coarse(time):
                coarse.setdefault(up(time, self.layout.coarse_tile_ms or 0), []).append(amount)
            else:
                fine.setdefault(up(time, self.layout.tile_ms), []).append(amount)
        frauds: Counter[tuple[int, int]] = Counter()
        for time, effective, delta in self.entries:
            if not self.is_forgotten(time):
                frauds[self.fraud_tile(time, effective)] += delta
        first = min((time for time, _ in self.purchases), default=None)
        if first is not None and self.newest is not None:
            first = max(first, (self.newest - self.layout.retention_ms) // HOUR * HOUR)
        return {
            "newest": self.newest,
            "first": first,
            "first effective": min((effective for _, effective, _ in self.entries), default=None),
            "fine": [(end, len(amounts), sum(amounts)) for end, amounts in sorted(fine.items())],
            "coarse": [(end, len(amounts), sum(amounts)) for end, amounts in sorted(coarse.items())],
            "frauds": sorted((key, net) for key, net in frauds.items() if net),
        }

    def fraud_tile(self, time: int, effective: int) -> tuple[int, int]:
        event_tile = up(time, self.layout.fraud_tile_ms)
        effective_tile = up(effective, self.layout.fraud_tile_ms)
        return event_tile, event_tile if effective_tile <= event_tile + self.layout.settled_ms else effective_tile

    def purchases_between(self, now: int, after: int, upto: int) -> int:
        found = 0
        for time, _ in self.purchases:
            if not self.is_forgotten(time):
                coarse = self.is_coarse(time, now)
                end = up(time, (self.layout.coarse_tile_ms or 0) if coarse else self.layout.tile_ms)
                found += after < end <= upto
        return found

    def frauds_between(self, now: int, after: int, upto: int) -> int:
        return sum(
            delta
            for time, effective, delta in self.entries
            if not self.is_forgotten(time)
            and after < up(time, self.layout.fraud_tile_ms) <= upto
            and up(effective, self.layout.fraud_tile_ms) <= now
        )


def up(time: int, length: int) -> int:
    """`time` rounded up to whole `length`s."""
    return (time + length - 1) // length * length


def contents_of(layout: MerchantLayout, state: MerchantState) -> dict[str, Any]:
    """What a state says, in absolute times."""

    def rows(tiles: Any, length: int | None) -> list[tuple[int, int, int]]:
        return [
            (end * (length or 0), count, total)
            for end, count, total in zip(tiles.ends, tiles.counts, tiles.sums, strict=True)
        ]

    return {
        "newest": state.newest_ms,
        "first": state.first_ms,
        "first effective": state.first_effective_ms,
        "fine": rows(state.fine, layout.tile_ms),
        "coarse": rows(state.coarse, layout.coarse_tile_ms),
        "frauds": [
            ((event * layout.fraud_tile_ms, effective * layout.fraud_tile_ms), net)
            for (event, effective), net in zip(state.frauds.keys, state.frauds.nets, strict=True)
        ],
    }
