"""Card features of one block of whole cards whose rows arrived in event-time order."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from stream_features.card_event import LATITUDE_SHIFT, LONGITUDE_SHIFT
from stream_features.card_state import CardLayout
from stream_features.feature_sets import Feature
from stream_features.kernel import LEAST_GAP_MS
from stream_features.tiles import HOUR_MS
from stream_features.vectorised.columns import HistoryColumns, hash64
from stream_features.vectorised.distances import metres_between_all
from stream_features.vectorised.groups import Timeline
from stream_features.vectorised.ranges import distinct_counts, previous_places, range_maxima

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class CardBlock:
    """The rows of some cards, sorted by card, then as they arrived.

    Purchases are numbered from 0 over the whole block; a window of a row is a range of such numbers.

    Args:
        columns: the history.
        rows: the block's rows, numbers into `columns`.
        amounts: shape (rows of the block,), US cents.
        layout: what bounds a card's state.
    """

    def __init__(self, columns: HistoryColumns, rows: Integers, amounts: Integers, layout: CardLayout) -> None:
        self._columns = columns
        self._rows = rows
        self._layout = layout
        self.amounts = amounts
        self.times = columns.event_times_ms[rows]
        codes = columns.cards[rows]
        changes = np.append(True, codes[1:] != codes[:-1])
        self.entity = np.cumsum(changes) - 1
        self.entities = int(self.entity[-1]) + 1
        self._bought = columns.is_purchase[rows]
        self._own = self._bought.astype(np.int64)
        total = np.cumsum(self._own)
        self._past_end = total - self._own  # purchases that arrived before the row
        self._purchases = np.flatnonzero(self._bought)
        self._card_start = self._past_end[np.flatnonzero(changes)][self.entity]
        self._bought_times = self.times[self._purchases]
        self._bought_amounts = amounts[self._purchases]
        # sums may pass 2^63 over a whole block; differences of wrapped sums are right all the same
        self._sums = np.append(0, np.cumsum(self._bought_amounts))
        first_ms = int(self.times.min())
        span_ms = int(self.times.max()) - first_ms
        self._timeline = Timeline(self.entity[self._purchases], self._bought_times, first_ms, span_ms)
        self._starts: dict[int, Integers] = {}

    def answer(self, feature: Feature) -> Floats:
        """The feature of every row of the block."""
        return _ANSWERS[feature.aggregation](self, feature)

    def _start(self, window_ms: int) -> Integers:
        """The first purchase in each row's window."""
        start = self._starts.get(window_ms)
        if start is None:
            start = self._starts[window_ms] = self._timeline.up_to(self.entity, self.times - window_ms)
        return start

    def _count(self, feature: Feature) -> Floats:
        return (self._past_end - self._start(_window(feature)) + self._own).astype(np.float64)

    def _sum_of(self, feature: Feature) -> Integers:
        """US cents in the window, the row's own included."""
        own = np.where(self._bought, self.amounts, 0)
        return cast(Integers, self._sums[self._past_end] - self._sums[self._start(_window(feature))] + own)

    def _sum(self, feature: Feature) -> Floats:
        return self._sum_of(feature).astype(np.float64)

    def _mean_major(self, feature: Feature) -> Floats:
        count = self._past_end - self._start(_window(feature)) + self._own
        total = self._sum_of(feature)
        return np.where(count != 0, total.astype(np.float64) / (np.maximum(count, 1) * 100), 0.0)

    def _ratio_to_mean(self, feature: Feature) -> Floats:
        start = self._start(_window(feature))
        count = self._past_end - start
        total = self._sums[self._past_end] - self._sums[start]
        return _where(total != 0, lambda at: self.amounts[at] / (total[at].astype(np.float64) / count[at]))

    def _ratio_to_max(self, feature: Feature) -> Floats:
        largest = range_maxima(self._bought_amounts, self._start(_window(feature)), self._past_end)
        return _where(largest != 0, lambda at: self.amounts[at] / largest[at].astype(np.float64))

    @cached_property
    def _has_past(self) -> NDArray[np.bool_]:
        has_past: NDArray[np.bool_] = self._past_end > self._card_start
        return has_past

    @cached_property
    def _last_ms(self) -> Integers:
        """The card's newest purchase before each row; meaningless where there is none."""
        return self._bought_times[np.maximum(self._past_end - 1, 0)] if len(self._purchases) else self.times

    def _cut_ms(self, newest_ms: Integers) -> Integers:
        return (newest_ms - self._layout.retention_ms) // HOUR_MS * HOUR_MS

    def _seconds_since_last(self, _: Feature) -> Floats:
        return _where(self._has_past, lambda at: (self.times[at] - self._last_ms[at]) / 1000.0)

    @cached_property
    def _merchant_keys(self) -> Integers:
        return self.entity * len(self._columns.merchant_ids) + self._columns.merchants[self._rows]

    @cached_property
    def _country_keys(self) -> Integers:
        countries = self._columns.countries[self._rows]
        return np.where(countries != 0, self.entity * 2**16 + countries, -1)

    def _distinct(self, keys: Integers, start: Integers) -> Integers:
        """Different keys (-1 is none) among the purchases from `start` up to and including the row."""
        known = keys[self._purchases] >= 0
        numbers = np.append(0, np.cumsum(known))
        places = self._purchases[known]
        return distinct_counts(
            previous_places(keys[places]), places, numbers[start], numbers[self._past_end + self._own]
        )

    def _distinct_merchants(self, feature: Feature) -> Floats:
        return self._distinct(self._merchant_keys, self._start(_window(feature))).astype(np.float64)

    def _distinct_countries(self, feature: Feature) -> Floats:
        return self._distinct(self._country_keys, self._start(_window(feature))).astype(np.float64)

    def _first_time_at_merchant(self, _: Feature) -> Floats:
        order = np.argsort(self._merchant_keys, kind="stable")
        keys = self._merchant_keys[order]
        # the place, in `order`, of the last purchase before each row
        last = np.append(-1, np.maximum.accumulate(np.where(self._bought[order], np.arange(len(order)), -1))[:-1])
        same = (last >= 0) & (keys[last] == keys)
        last_ms = np.where(same, self.times[order[last]], np.iinfo(np.int64).min)
        seen_ms = np.empty(len(order), dtype=np.int64)
        seen_ms[order] = last_ms
        known = seen_ms >= self._cut_ms(self._last_ms)
        return np.where(self._has_past, np.where(known, 0.0, 1.0), np.nan)

    @cached_property
    def _last_placed(self) -> Integers:
        """The row (of the block) of the last earlier purchase with a place, -1 where it or the row's own is missing."""
        latitudes = self._columns.latitudes_e6[self._rows]
        placed = self._purchases[latitudes[self._purchases] != 0]
        if not len(placed):
            return np.full(len(self.times), -1, dtype=np.int64)
        number = np.cumsum((latitudes != 0) & self._bought)
        before = number - ((latitudes != 0) & self._bought) - 1
        last = self._newest_of_ties(placed)[np.maximum(before, 0)]
        found = (
            (before >= 0)
            & (latitudes != 0)
            & (self.entity[last] == self.entity)
            & (self.times[last] >= self._cut_ms(self._last_ms))
        )
        return np.where(found, last, -1)

    def _newest_of_ties(self, placed: Integers) -> Integers:
        """For each of `placed` the one that counts as newest so far: of those at one time, the greatest id hash."""
        newest = placed.copy()
        tied = (self.entity[placed[1:]] == self.entity[placed[:-1]]) & (
            self.times[placed[1:]] == self.times[placed[:-1]]
        )
        for place in (np.flatnonzero(tied) + 1).tolist():
            standing, coming = int(newest[place - 1]), int(placed[place])
            newest[place] = standing if self._id_hash(standing) > self._id_hash(coming) else coming
        return newest

    def _id_hash(self, row: int) -> int:
        return hash64(self._columns.transaction_ids[self._rows[row]])

    @cached_property
    def _metres(self) -> Integers:
        """From the last placed purchase, where there is one."""
        here = np.flatnonzero(self._last_placed >= 0)
        latitudes = self._columns.latitudes_e6[self._rows] - LATITUDE_SHIFT
        longitudes = self._columns.longitudes_e6[self._rows] - LONGITUDE_SHIFT
        last = self._last_placed[here]
        metres = np.zeros(len(self.times), dtype=np.int64)
        metres[here] = metres_between_all(latitudes[here], longitudes[here], latitudes[last], longitudes[last])
        return metres

    def _distance_from_last(self, _: Feature) -> Floats:
        return np.where(self._last_placed >= 0, self._metres.astype(np.float64), np.nan)

    def _speed_from_last(self, _: Feature) -> Floats:
        gap_ms = np.maximum(self.times - self.times[self._last_placed], LEAST_GAP_MS)
        speed = (self._metres * 1000).astype(np.float64) / gap_ms.astype(np.float64)
        return np.where(self._last_placed >= 0, speed, np.nan)

    def beyond_the_bounds(self, *, merchants: bool, countries: bool) -> NDArray[np.bool_]:
        """Which entities the scalar path must answer: unordered, beyond a bound of the state, or one id twice at once.

        Args:
            merchants: whether the bound of the merchant map matters.
            countries: whether that of the country map does.
        """
        entity, times = self.entity, self.times
        beyond = np.zeros(self.entities, dtype=np.bool_)
        same_card = entity[1:] == entity[:-1]
        beyond[entity[1:][same_card & (times[1:] < times[:-1])]] = True
        beyond[self._entities_with_repeated_ids(same_card & (times[1:] == times[:-1]))] = True
        end = self._past_end + self._own
        newest_ms = self._bought_times[np.maximum(end - 1, 0)] if len(self._purchases) else times
        newest_ms = np.where(end > self._card_start, newest_ms, times)
        kept = self._timeline.up_to(entity, self._cut_ms(newest_ms) - 1)
        beyond[entity[end - kept > self._layout.exact_entries]] = True
        # in an unordered card `kept` is meaningless and may run backwards, which the counts below do not allow
        kept = np.maximum.accumulate(kept)
        kept = np.minimum(kept, end)
        if merchants:
            beyond[entity[self._distinct(self._merchant_keys, kept) > self._layout.merchants]] = True
        if countries:
            beyond[entity[self._distinct(self._country_keys, kept) > self._layout.countries]] = True
        return beyond

    def _entities_with_repeated_ids(self, tied: NDArray[np.bool_]) -> list[int]:
        """Cards on which one id stands twice at one time; `tied`: whether a row has the time of the row before it."""
        repeated = []
        seen: set[str] = set()
        previous = -1
        ids = self._columns.transaction_ids
        for place in (np.flatnonzero(tied) + 1).tolist():
            if place != previous + 1:
                seen = {ids[self._rows[place - 1]]}
            transaction_id = ids[self._rows[place]]
            if transaction_id in seen:
                repeated.append(int(self.entity[place]))
            seen.add(transaction_id)
            previous = place
        return repeated


def _window(feature: Feature) -> int:
    if feature.window_ms is None:
        raise ValueError(f"{feature.name} has no window")
    return feature.window_ms


def _where(known: NDArray[np.bool_], values: Callable[[Integers], Floats]) -> Floats:
    """NaN, but `values` of the places where `known`."""
    answers = np.full(len(known), np.nan)
    places = np.flatnonzero(known)
    answers[places] = values(places)
    return answers


_ANSWERS: Final[dict[str, Callable[[CardBlock, Feature], Floats]]] = {
    "count": CardBlock._count,
    "sum": CardBlock._sum,
    "mean_major": CardBlock._mean_major,
    "ratio_to_mean": CardBlock._ratio_to_mean,
    "ratio_to_max": CardBlock._ratio_to_max,
    "seconds_since_last": CardBlock._seconds_since_last,
    "distinct_merchants": CardBlock._distinct_merchants,
    "distinct_countries": CardBlock._distinct_countries,
    "first_time_at_merchant": CardBlock._first_time_at_merchant,
    "distance_from_last": CardBlock._distance_from_last,
    "speed_from_last": CardBlock._speed_from_last,
}
AGGREGATIONS: Final = frozenset(_ANSWERS)
