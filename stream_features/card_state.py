"""What is remembered of one card: a function of the *set* of purchases seen, in whatever order they came.

    older                                                                                newest
    |-- hour tiles ----------------------------|-- minute tiles --|-- exact entries --------|
    cut (a whole hour)                         newest - 2 h       the newest N, by (time, id hash)

* Purchases before `cut` = floor_hour(newest - retention) are forgotten, and not taken in again.
* The newest N by (event time, id hash) stay exact; older ones merge into tiles of count, sum and largest amount:
  minutes whose end lies less than 2 h behind the newest purchase, hours beyond.
* Two maps hold, per merchant and per country, the time it was last seen; they keep the K greatest (last time, value).

Times and amounts are arrays; what is only read of single entries stays one row of bytes each. So packing and unpacking
are a few bulk copies. Times inside are milliseconds after `base_ms`, which depends on the newest purchase alone; they
fit 32 bits because retention is limited.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from struct import Struct
from typing import Final

from stream_features.card_event import CardEvent
from stream_features.last_seen import LastSeen
from stream_features.tiles import HOUR_MS, MINUTE_MS, Merged

BASE_GRID_MS: Final = 2**30  # 12.4 days: how rarely offsets are computed anew
LAYOUT_VERSION: Final = 1
U32_LIMIT: Final = 2**32

# the rest of an exact entry: id hash, merchant hash, country, latitude, longitude
REST: Final = Struct("<QQHII")
MERCHANT_WIDTH: Final = 8  # bytes of a merchant hash, of a country
COUNTRY_WIDTH: Final = 2
_ID: Final = Struct("<Q")


@dataclass(frozen=True, slots=True)
class CardLayout:
    """The bounds of a card's state. Another layout is another state: it has to be migrated.

    Raises:
        ValueError: a bound below 1, or a retention whose offsets would not fit 32 bits (37 days do).
    """

    retention_ms: int
    exact_entries: int = 1024
    merchants: int = 128
    countries: int = 32
    minutes_behind_ms: int = 2 * HOUR_MS

    def __post_init__(self) -> None:
        if min(self.retention_ms, self.exact_entries, self.merchants, self.countries, self.minutes_behind_ms) < 1:
            raise ValueError("every bound of a card layout is at least 1")
        if BASE_GRID_MS + self.retention_ms + 2 * HOUR_MS >= U32_LIMIT:
            raise ValueError("retention is too long for 32-bit offsets")

    @property
    def layout_id(self) -> str:
        """Names version and bounds, as `entity_state` stores it."""
        bounds = f"{self.retention_ms},{self.exact_entries},{self.merchants},{self.countries},{self.minutes_behind_ms}"
        return f"card-{LAYOUT_VERSION}-{hashlib.sha256(bounds.encode()).hexdigest()[:12]}"

    def cut_ms(self, newest_ms: int) -> int:
        """The start of the oldest hour that is kept."""
        return (newest_ms - self.retention_ms) // HOUR_MS * HOUR_MS

    def base_ms(self, newest_ms: int) -> int:
        """What stored times count from."""
        return self.cut_ms(newest_ms) // BASE_GRID_MS * BASE_GRID_MS


class CardState:
    """One card's memory. Mutable; `add` and `add_merged` keep it canonical.

    Attributes:
        base_ms: what `times` and the maps' times count from; 0 while nothing is stored.
        times: offsets of the exact entries, sorted by (time, id hash); `amounts` and `rest` run parallel.
        amounts: US cents; array type `I`, or `Q` once an amount needs it.
        rest: one `REST` row of bytes per exact entry.
        merchant_last: merchant hash -> last seen.
        country_last: country -> last seen.
        merged: the older purchases; None when there are none.
        complete_from_ms: the card's history before this time was loaded whole; not packed.
    """

    __slots__ = ("amounts", "base_ms", "complete_from_ms", "country_last", "merchant_last", "merged", "rest", "times")

    def __init__(
        self,
        base_ms: int,
        times: array[int],
        amounts: array[int],
        rest: bytes,
        merchant_last: LastSeen,
        country_last: LastSeen,
        merged: Merged | None,
        complete_from_ms: int | None,
    ) -> None:
        self.base_ms = base_ms
        self.times = times
        self.amounts = amounts
        self.rest = rest
        self.merchant_last = merchant_last
        self.country_last = country_last
        self.merged = merged
        self.complete_from_ms = complete_from_ms

    @classmethod
    def empty(cls, complete_from_ms: int | None = None) -> CardState:
        """A card of which nothing is known."""
        return cls(
            0,
            array("I"),
            array("I"),
            b"",
            LastSeen(MERCHANT_WIDTH, array("I"), b""),
            LastSeen(COUNTRY_WIDTH, array("I"), b""),
            None,
            complete_from_ms,
        )

    @property
    def newest_ms(self) -> int | None:
        """Event time of the newest purchase stored; None when nothing is."""
        return self.base_ms + self.times[-1] if self.times else None

    def exact_events(self) -> list[CardEvent]:
        """The exact entries, oldest first."""
        return [
            CardEvent(self.base_ms + time, amount, id_hash, merchant, country, latitude, longitude, True)
            for time, amount, (id_hash, merchant, country, latitude, longitude) in zip(
                self.times, self.amounts, REST.iter_unpack(self.rest), strict=True
            )
        ]

    def insertion_index(self, event: CardEvent) -> int:
        """Where `event` stands or belongs among the exact entries, by (time, id hash)."""
        offset = event.event_time_ms - self.base_ms
        times = self.times
        index = bisect_left(times, offset)
        while index < len(times) and times[index] == offset and self._id_at(index) < event.id_hash:
            index += 1
        return index

    def holds(self, event: CardEvent, index: int) -> bool:
        """Whether the entry at `index` is `event`."""
        times = self.times
        return (
            index < len(times)
            and times[index] == event.event_time_ms - self.base_ms
            and self._id_at(index) == event.id_hash
        )

    def _id_at(self, index: int) -> int:
        id_hash: int = _ID.unpack_from(self.rest, index * REST.size)[0]
        return id_hash

    def without(self, index: int) -> CardState:
        """This state without the exact entry at `index`, to ask only: maps and tiles are shared and unchanged."""
        return CardState(
            self.base_ms,
            self.times[:index] + self.times[index + 1 :],
            self.amounts[:index] + self.amounts[index + 1 :],
            self.rest[: index * REST.size] + self.rest[(index + 1) * REST.size :],
            self.merchant_last,
            self.country_last,
            self.merged,
            self.complete_from_ms,
        )

    def is_merged_range(self, event: CardEvent) -> bool:
        """Whether `event` is not newer than the newest merged purchase."""
        merged = self.merged
        return merged is not None and (event.event_time_ms, event.id_hash) <= (merged.time_ms, merged.id_hash)

    def take_in(self, layout: CardLayout, event: CardEvent) -> bool:
        """Store a purchase wherever it belongs, as the kernel does after asking.

        Args:
            layout: the bounds of this state; always the same for one state.
            event: a purchase.

        Returns:
            Whether the state changed: not for one that is forgotten, stands here already or was loaded with history.
        """
        times = self.times
        if times and event.event_time_ms - self.base_ms <= times[-1]:
            if event.event_time_ms < layout.cut_ms(self.base_ms + times[-1]):
                return False
            if self.is_merged_range(event):
                if event.event_time_ms < (self.complete_from_ms or 0):
                    return False
                self.add_merged(layout, event)
                return True
            if self.holds(event, self.insertion_index(event)):
                return False
        self.add(layout, event)
        return True

    def add(self, layout: CardLayout, event: CardEvent) -> None:
        """Store a purchase that is newer than the newest merged one, not before the cut, and not stored yet.

        Args:
            layout: the bounds of this state; always the same for one state.
            event: the purchase.
        """
        time_ms, amount, id_hash, merchant, country, latitude, longitude, _ = event
        times = self.times
        offset = time_ms - self.base_ms
        row = REST.pack(id_hash, merchant, country, latitude, longitude)
        if amount >= U32_LIMIT and self.amounts.typecode == "I":
            self.amounts = array("Q", self.amounts)
        if not times or offset > times[-1]:
            if self._advance(layout, time_ms):
                times = self.times
                offset = time_ms - self.base_ms
            times.append(offset)
            self.amounts.append(amount)
            self.rest += row
        else:
            index = self.insertion_index(event)
            times.insert(index, offset)
            self.amounts.insert(index, amount)
            self.rest = self.rest[: index * REST.size] + row + self.rest[index * REST.size :]
        self.merchant_last.see(merchant, offset, layout.merchants)
        if country:
            self.country_last.see(country, offset, layout.countries)
        if len(times) > layout.exact_entries:
            self._merge_oldest(layout)

    def add_merged(self, layout: CardLayout, event: CardEvent) -> None:
        """Store a purchase of the merged range: it counts in its tile and in the maps, and is never exact.

        Args:
            layout: the bounds of this state; always the same for one state.
            event: a purchase of the merged range, not before the cut.
        """
        if self.merged is None:
            raise ValueError("nothing is merged")
        self._merge(layout, self.merged, event.event_time_ms, event.amount_base)
        offset = event.event_time_ms - self.base_ms
        self.merchant_last.see(event.merchant_hash, offset, layout.merchants)
        if event.country:
            self.country_last.see(event.country, offset, layout.countries)

    def _merge_oldest(self, layout: CardLayout) -> None:
        time_ms, id_hash = self.base_ms + self.times.pop(0), self._id_at(0)
        self.rest = self.rest[REST.size :]
        if self.merged is None:
            self.merged = Merged(time_ms, id_hash)
        else:
            self.merged.time_ms, self.merged.id_hash = time_ms, id_hash
        self._merge(layout, self.merged, time_ms, self.amounts.pop(0))

    def _merge(self, layout: CardLayout, merged: Merged, time_ms: int, amount: int) -> None:
        minute = time_ms // MINUTE_MS
        if (minute + 1) * MINUTE_MS > self.base_ms + self.times[-1] - layout.minutes_behind_ms:
            merged.minutes.add(minute, 1, amount, amount)
        else:
            merged.hours.add(time_ms // HOUR_MS, 1, amount, amount)

    def _advance(self, layout: CardLayout, newest_ms: int) -> bool:
        """Forget what lies before the cut of `newest_ms`; fold minutes that are now too old into hours.

        Returns:
            Whether `base_ms` and `times` are other ones now.
        """
        cut_ms = (newest_ms - layout.retention_ms) // HOUR_MS * HOUR_MS
        base_ms = cut_ms // BASE_GRID_MS * BASE_GRID_MS
        times = self.times
        if not times:
            self.base_ms = base_ms
            return True
        cut = cut_ms - self.base_ms
        if times[0] < cut:
            index = bisect_left(times, cut)
            del times[:index], self.amounts[:index]
            self.rest = self.rest[index * REST.size :]
        for last_seen in (self.merchant_last, self.country_last):
            seen = last_seen.times
            if seen and seen[0] < cut:
                last_seen.drop_first(bisect_left(seen, cut))
        if self.merged is not None:
            self._advance_merged(layout, self.merged, newest_ms, cut_ms)
        if base_ms == self.base_ms:
            return False
        shift = base_ms - self.base_ms
        self.base_ms = base_ms
        self.times = array("I", [time - shift for time in times])
        for last_seen in (self.merchant_last, self.country_last):
            last_seen.times = array("I", [time - shift for time in last_seen.times])
        return True

    def _advance_merged(self, layout: CardLayout, merged: Merged, newest_ms: int, cut_ms: int) -> None:
        if merged.time_ms < cut_ms:
            self.merged = None
            return
        minutes, hours = merged.minutes, merged.hours
        minutes.drop_before(cut_ms // MINUTE_MS)
        hours.drop_before(cut_ms // HOUR_MS)
        while minutes.starts and (minutes.starts[0] + 1) * MINUTE_MS <= newest_ms - layout.minutes_behind_ms:
            start, count, total, largest = minutes.take_first()
            hours.add(start // (HOUR_MS // MINUTE_MS), count, total, largest)
