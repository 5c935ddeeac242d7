"""One card by the letter: a list of all purchases ever taken in, looked at anew for every question. Tiles included.

The merchant is one never seen: `slow_merchant.py` judges those.

Judges the kernel and the state where purchases are merged, which the oracle in tests/oracle.py leaves out.
"""

from __future__ import annotations

import math

from stream_features.card_event import CardEvent
from stream_features.card_state import CardLayout
from stream_features.distance import metres_between

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WINDOWS = (MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY)


class SlowCard:
    def __init__(self, layout: CardLayout, complete_from_ms: int | None = None) -> None:
        self.layout = layout
        self.complete_from_ms = complete_from_ms
        self.taken: list[CardEvent] = []

    @property
    def newest_ms(self) -> int:
        return max(event.event_time_ms for event in self.taken)

    def retained(self) -> list[CardEvent]:
        """What is not forgotten, by (time, id hash)."""
        if not self.taken:
            return []
        kept = [e for e in self.taken if not self.is_forgotten(e)]
        return sorted(kept, key=lambda e: (e.event_time_ms, e.id_hash))

    def is_forgotten(self, event: CardEvent) -> bool:
        hour_end = (event.event_time_ms // HOUR + 1) * HOUR
        return bool(self.taken) and hour_end <= self.newest_ms - self.layout.retention_ms

    def exact(self) -> list[CardEvent]:
        return self.retained()[-self.layout.exact_entries :]

    def merged(self) -> list[CardEvent]:
        return self.retained()[: -self.layout.exact_entries]

    def tile(self, event: CardEvent) -> tuple[int, int]:
        """(length, start) of the tile a merged purchase counts in."""
        start = event.event_time_ms // MINUTE * MINUTE
        if start + MINUTE > self.newest_ms - self.layout.minutes_behind_ms:
            return MINUTE, start
        return HOUR, event.event_time_ms // HOUR * HOUR

    def tiles(self, length: int) -> list[tuple[int, int, int, int]]:
        """(start in tiles, count, sum, largest) of every tile of `length`."""
        amounts: dict[int, list[int]] = {}
        for event in self.merged():
            tile_length, start = self.tile(event)
            if tile_length == length:
                amounts.setdefault(start // length, []).append(event.amount_base)
        return [(start, len(found), sum(found), max(found)) for start, found in sorted(amounts.items())]

    def last_seen(self, field: str, most: int) -> list[tuple[int, int]]:
        """The `most` greatest (last time, value), ascending; an unknown country (0) is no value."""
        last: dict[int, int] = {}
        for event in self.retained():
            value = getattr(event, field)
            if value or field == "merchant_hash":
                last[value] = max(last.get(value, event.event_time_ms), event.event_time_ms)
        return sorted((time, value) for value, time in last.items())[-most:]

    def observe(self, event: CardEvent) -> tuple[list[float], bool, bool, bool]:
        """Values in core order, late, stateless, stored; then the card holds the event."""
        newest_ms = self.newest_ms if self.taken else event.event_time_ms
        late = event.event_time_ms < newest_ms
        merged = self.merged()
        newest_merged = max((e.event_time_ms, e.id_hash) for e in merged) if merged else None
        if self.is_forgotten(event):
            return self._values_without_state(event), True, True, False
        if newest_merged is not None and (event.event_time_ms, event.id_hash) <= newest_merged:
            stored = event.is_purchase and not event.event_time_ms < (self.complete_from_ms or 0)
            if stored:
                self.taken.append(event)
            return self._values_without_state(event), True, True, stored
        repeated = any(_same(e, event) for e in self.exact())
        values = self._values(event, repeated)
        stored = event.is_purchase and not repeated
        if stored:
            self.taken.append(event)
        return values, late, False, stored

    def _values_without_state(self, event: CardEvent) -> list[float]:
        return [*_of_transaction(event), *[math.nan] * 31]

    def _values(self, event: CardEvent, repeated: bool) -> list[float]:
        time = event.event_time_ms
        exact = [e for e in self.exact() if e.event_time_ms <= time and not _same(e, event)]
        merged = self.merged()

        def past(window: int) -> list[int]:
            inside = [e.amount_base for e in exact if e.event_time_ms > time - window]
            return inside + [e.amount_base for e in merged if sum(self.tile(e)) > time - window]

        own = [event.amount_base] if event.is_purchase else []
        counts = [float(len(past(window) + own)) for window in WINDOWS]
        sums = [float(sum(past(window) + own)) for window in WINDOWS]
        month = past(30 * DAY)
        max_ratio = float(event.amount_base) / float(max(month)) if sum(month) else math.nan

        def mean_ratio(window: int) -> float:
            inside = past(window)
            return float(event.amount_base) / (float(sum(inside)) / float(len(inside))) if sum(inside) else math.nan

        since = first = distance = speed = math.nan
        everything = exact or merged
        if everything:
            since = (time - max(e.event_time_ms for e in everything)) / 1000.0
            first = 1.0
            for last, value in self.last_seen("merchant_hash", self.layout.merchants):
                if value == event.merchant_hash:
                    before = last <= time and not (repeated and last == time)
                    if before or any(e.merchant_hash == value for e in exact):
                        first = 0.0
        placed = [e for e in exact if e.latitude_e6]
        if placed and event.latitude_e6:
            there = placed[-1]
            metres = metres_between(
                event.latitude_e6 - 90_000_001,
                event.longitude_e6 - 180_000_001,
                there.latitude_e6 - 90_000_001,
                there.longitude_e6 - 180_000_001,
            )
            distance = float(metres)
            speed = metres * 1000 / max(time - there.event_time_ms, 1000)
        return [
            *_of_transaction(event),
            *counts,
            *sums,
            mean_ratio(30 * DAY),
            max_ratio,
            since,
            self._distinct(event, exact, "merchant_hash", self.layout.merchants),
            self._distinct(event, exact, "country", self.layout.countries),
            first,
            distance,
            speed,
            mean_ratio(DAY),
            mean_ratio(7 * DAY),
            *[0.0] * 6,  # a merchant never seen
            *[math.nan] * 3,
        ]

    def _distinct(self, event: CardEvent, exact: list[CardEvent], field: str, most: int) -> float:
        time = event.event_time_ms
        found = {getattr(event, field)} if event.is_purchase else set()
        today = {getattr(e, field) for e in exact if e.event_time_ms > time - DAY}
        for last, value in self.last_seen(field, most):
            if time - DAY < last <= time or (last > time and value in today):
                found.add(value)
        if field == "country":
            found.discard(0)
        return float(len(found))


def _same(one: CardEvent, other: CardEvent) -> bool:
    return (one.event_time_ms, one.id_hash) == (other.event_time_ms, other.id_hash)


def _of_transaction(event: CardEvent) -> list[float]:
    hours = event.event_time_ms // HOUR
    weekday = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")[hours // 24 % 7]
    return [float(event.amount_base), float(hours % 24 in range(7)), float(weekday in ("Sat", "Sun"))]
