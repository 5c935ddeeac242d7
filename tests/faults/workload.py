"""What a campaign publishes: a history, and then one group of cards for every fault.

A card belongs to one group only. The groups come in the last week, and the history ends before it: nothing of that week
is in a window of its merchants (the set's smallest merchant delay is a week). So the order in which groups and shards
are processed changes no value, and every group can be compared with the undisturbed run bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from producers.simulator import simulate
from stream_features.transaction import Transaction

SEED: Final = 11
DAYS: Final = 12.0
WEEK_MS: Final = 7 * 86_400_000
MINUTE_MS: Final = 60_000
SLOW_CLOCK_MS: Final = 12 * 60 * MINUTE_MS
FAST_CLOCK_MS: Final = 4 * MINUTE_MS
GAP_MS: Final = SLOW_CLOCK_MS + 60 * MINUTE_MS  # without transactions after the history: wrong clocks may reach into it
HISTORY_SHARE: Final = 0.55  # of all rows, roughly: the five days before the week


@dataclass(frozen=True, slots=True)
class Workload:
    """`history` first, then the groups by their fault, each in the order of its times (unless skewed)."""

    history: list[Transaction]
    groups: dict[str, list[Transaction]]

    @property
    def everything(self) -> list[Transaction]:
        return [*self.history, *(one for group in self.groups.values() for one in group)]


def workload(sizes: Mapping[str, int], end_ms: int | None = None) -> Workload:
    """A group of at least so many transactions for every name in `sizes`, of whole cards, until `end_ms` (now)."""
    count = round(sum(sizes.values()) / (1 - HISTORY_SHARE) * 1.15)
    if end_ms is None:
        end_ms = time.time_ns() // 1_000_000
    rows = [row.transaction for row in simulate(count, seed=SEED, end_ms=end_ms, days=DAYS)]
    from_ms = end_ms - WEEK_MS
    history = [row for row in rows if row.event_time_ms <= from_ms]
    by_card: dict[str, list[Transaction]] = {}
    for row in (row for row in rows if row.event_time_ms > from_ms + GAP_MS):
        by_card.setdefault(row.card_id, []).append(row)
    cards = iter(sorted(by_card))
    groups: dict[str, list[Transaction]] = {}
    for name, size in sizes.items():
        group: list[Transaction] = []
        while len(group) < size:
            card = next(cards, None)
            if card is None:
                raise ValueError(f"{count} transactions are not enough: {name} has {len(group)} of {size}")
            group += by_card[card]
        groups[name] = sorted(group, key=lambda one: one.event_time_ms)
    return Workload(history, groups)


def with_hot_card(group: Sequence[Transaction]) -> list[Transaction]:
    """Every fifth transaction is of one card."""
    hot = group[0].card_id
    return [msgspec.structs.replace(one, card_id=hot) if n % 5 == 0 else one for n, one in enumerate(group)]


def with_hot_merchant(group: Sequence[Transaction]) -> list[Transaction]:
    """Every fifth transaction is at one merchant."""
    return [msgspec.structs.replace(one, merchant_id="m-hot") if n % 5 == 0 else one for n, one in enumerate(group)]


def with_skewed_clocks(group: Sequence[Transaction]) -> list[Transaction]:
    """Three publishers in turn, their clocks 12 hours slow, right, and 4 minutes fast: cards' events come unordered.

    The last one of the group happens now, so that the fast clock is ahead of the stream's own.
    """
    skews_ms = (-SLOW_CLOCK_MS, 0, FAST_CLOCK_MS)
    skewed = [
        msgspec.structs.replace(one, event_time_ms=one.event_time_ms + skews_ms[n % 3]) for n, one in enumerate(group)
    ]
    now_ms = time.time_ns() // 1_000_000
    return [*skewed[:-1], msgspec.structs.replace(skewed[-1], event_time_ms=now_ms + FAST_CLOCK_MS)]
