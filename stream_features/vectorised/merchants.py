"""Merchant features of one block of whole merchants whose rows arrived in event-time order.

Then every purchase whose tile can lie in a row's window arrived before the row, because a window ends at least one tile
and one delay before it; and, as all labels of a history are reported after the same delay, frauds take effect in the
order of their event times. So each window is a difference of two counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_features.feature_sets import Feature
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantLayout
from stream_features.vectorised.columns import HistoryColumns
from stream_features.vectorised.groups import Timeline

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class MerchantBlock:
    """The rows of some merchants, sorted by merchant, then as they arrived.

    Args:
        columns: the history.
        rows: the block's rows, numbers into `columns`.
        layout: the tiles of a merchant's state.
        reported_frauds: which rows of the history are purchases that were reported as fraud.
        label_delay_ms: how long after its event each label is reported.
    """

    def __init__(
        self,
        columns: HistoryColumns,
        rows: Integers,
        layout: MerchantLayout,
        reported_frauds: NDArray[np.bool_],
        label_delay_ms: int,
    ) -> None:
        self._layout = layout
        self.times = columns.event_times_ms[rows]
        codes = columns.merchants[rows]
        self.entity = np.cumsum(np.append(True, codes[1:] != codes[:-1])) - 1
        self.entities = int(self.entity[-1]) + 1
        bought = columns.is_purchase[rows]
        purchases = np.flatnonzero(bought)
        self._bought_times = self.times[purchases]
        self._bought_entity = self.entity[purchases]
        frauds = np.flatnonzero(reported_frauds[rows])
        fraud_times, fraud_entity = self.times[frauds], self.entity[frauds]
        self._fraud_tiles = self._timeline(fraud_entity, _ceiling(fraud_times, layout.fraud_tile_ms))
        effective = _ceiling(fraud_times + (label_delay_ms + LABEL_EFFECT_MS), layout.fraud_tile_ms)
        self._known = self._timeline(fraud_entity, effective).up_to(self.entity, self.times)
        self._tiles = self._timeline(self._bought_entity, _ceiling(self._bought_times, layout.tile_ms))
        self._edges: dict[tuple[str, int], Integers] = {}

    def _timeline(self, entity: Integers, moments_ms: Integers) -> Timeline:
        first_ms = int(moments_ms.min(initial=0)) if len(moments_ms) else 0
        return Timeline(entity, moments_ms, first_ms, int(moments_ms.max(initial=first_ms)) - first_ms)

    def answer(self, feature: Feature) -> Floats:
        """The feature of every row of the block."""
        return _ANSWERS[feature.aggregation](self, feature)

    def unordered(self) -> NDArray[np.bool_]:
        """Which entities the scalar path must answer."""
        beyond = np.zeros(self.entities, dtype=np.bool_)
        entity, times = self.entity, self.times
        beyond[entity[1:][(entity[1:] == entity[:-1]) & (times[1:] < times[:-1])]] = True
        return beyond

    def _edge_ms(self, behind_ms: int) -> Integers:
        return self.times // self._layout.tile_ms * self._layout.tile_ms - behind_ms

    def _purchases_up_to(self, behind_ms: int) -> Integers:
        """How many purchases lie in tiles that end at or before the edge."""
        count = self._edges.get(("purchases", behind_ms))
        if count is None:
            edge_ms = self._edge_ms(behind_ms)
            count = self._tiles.up_to(self.entity, edge_ms)
            if self._layout.coarse_tile_ms is not None:
                coarse = self._coarse_tiles.up_to(self.entity, edge_ms)
                count = np.minimum(coarse, self._folded) + np.maximum(count, self._folded) - self._folded
            self._edges["purchases", behind_ms] = count
        return count

    def _frauds_up_to(self, behind_ms: int) -> Integers:
        """How many frauds that are known by now lie in fraud tiles that end at or before the edge."""
        count = self._edges.get(("frauds", behind_ms))
        if count is None:
            tiles = self._fraud_tiles.up_to(self.entity, self._edge_ms(behind_ms))
            count = self._edges["frauds", behind_ms] = np.minimum(tiles, self._known)
        return count

    @cached_property
    def _coarse_tiles(self) -> Timeline:
        layout = self._layout
        fine = _ceiling(self._bought_times, layout.tile_ms)
        return self._timeline(self._bought_entity, _ceiling(fine, layout.coarse_tile_ms or layout.tile_ms))

    @cached_property
    def _folded(self) -> Integers:
        """How many purchases are in coarse tiles when the row asks."""
        # by the row's own time, not by the newest purchase stored: see `MerchantState.purchases_between`
        return self._tiles.up_to(self.entity, self.times - (self._layout.fine_behind_ms or 0))

    def _count_of(self, feature: Feature) -> Integers:
        window_ms, delay_ms = feature.window_ms or 0, feature.delay_ms
        return self._purchases_up_to(delay_ms) - self._purchases_up_to(delay_ms + window_ms)

    def _count(self, feature: Feature) -> Floats:
        return self._count_of(feature).astype(np.float64)

    def _shares(self, feature: Feature, of_nothing: float) -> Floats:
        window_ms, delay_ms = feature.window_ms or 0, feature.delay_ms
        count = self._count_of(feature)
        frauds = self._frauds_up_to(delay_ms) - self._frauds_up_to(delay_ms + window_ms)
        return np.where(count != 0, frauds / np.maximum(count, 1), of_nothing)

    def _risk(self, feature: Feature) -> Floats:
        return self._shares(feature, np.nan)

    def _risk_or_zero(self, feature: Feature) -> Floats:
        return self._shares(feature, 0.0)


def _ceiling(moments_ms: Integers, tile_ms: int) -> Integers:
    return -(-moments_ms // tile_ms) * tile_ms


_ANSWERS: Final[dict[str, Callable[[MerchantBlock, Feature], Floats]]] = {
    "count": MerchantBlock._count,
    "risk": MerchantBlock._risk,
    "risk_or_zero": MerchantBlock._risk_or_zero,
}
AGGREGATIONS: Final = frozenset(_ANSWERS)
