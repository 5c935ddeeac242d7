"""Which of the past transactions each feature of a decision comes from, by the plain definition of its window.

It is the definition written for people: which purchases lie in the window, not how the kernel sums them. Where a card
has more purchases than its state keeps one by one, the kernel rounds the old end of a window out (`resolution_ms`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from stream_features.entity_event import FraudEntry
from stream_features.feature_definition import RISKS, Feature, FeatureSet
from stream_features.merchant_state import MerchantLayout

_OF_THE_LAST: Final = ("seconds_since_last",)
_OF_THE_LAST_PLACE: Final = ("distance_from_last", "speed_from_last")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastPurchase:
    """A purchase that arrived before the one that is explained."""

    transaction_id: str
    event_time_ms: int
    merchant_id: str
    amount_minor: int
    currency: str
    country: str | None
    has_place: bool
    loaded: bool  # by a bootstrap; the others have been decided
    decision: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class MerchantPast:
    """A merchant's purchases (epoch ms, ascending) and the fraud entries that stand for them."""

    purchase_times_ms: Sequence[int]
    frauds: Sequence[FraudEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where one feature comes from.

    Attributes:
        feature: its definition.
        after_ms: start of its window, exclusive, epoch ms; None where it has no window.
        until_ms: end of its window, inclusive; None likewise.
        purchases: how many purchases of the past count, the transaction itself aside; None where nobody counted.
        frauds: known frauds among them; None where the feature asks for none.
        counted: of a card: which of the past purchases they are, as places in the past.
    """

    feature: Feature
    after_ms: int | None = None
    until_ms: int | None = None
    purchases: int | None = None
    frauds: int | None = None
    counted: tuple[int, ...] = field(default=())


def origins(
    features: FeatureSet,
    *,
    event_time_ms: int,
    merchant_id: str,
    card_past: Sequence[PastPurchase],
    merchant_past: MerchantPast | None,
) -> list[Origin]:
    """One origin per feature, in feature-set order.

    Args:
        features: the decision's feature set.
        event_time_ms: of the transaction, epoch ms.
        merchant_id: of the transaction.
        card_past: the card's purchases that arrived earlier, in any order.
        merchant_past: the merchant's; None if it is not known.
    """
    found = []
    for feature in features.features:
        if feature.entity == "card":
            found.append(_of_card(feature, event_time_ms, merchant_id, card_past))
        elif feature.entity == "merchant":
            found.append(_of_merchant(feature, features.merchant_layout, event_time_ms, merchant_past))
        else:
            found.append(Origin(feature=feature))
    return found


def _of_card(feature: Feature, event_time_ms: int, merchant_id: str, past: Sequence[PastPurchase]) -> Origin:
    until_ms = event_time_ms - feature.delay_ms
    earlier = [place for place, one in enumerate(past) if one.event_time_ms <= until_ms]
    if feature.window_ms is not None:
        after_ms = until_ms - feature.window_ms
        counted = [place for place in earlier if past[place].event_time_ms > after_ms]
        return Origin(
            feature=feature, after_ms=after_ms, until_ms=until_ms, purchases=len(counted), counted=tuple(counted)
        )
    if feature.aggregation in _OF_THE_LAST:
        counted = _newest(earlier, past)
    elif feature.aggregation in _OF_THE_LAST_PLACE:
        counted = _newest([place for place in earlier if past[place].has_place], past)
    else:  # first time at this merchant
        counted = [place for place in earlier if past[place].merchant_id == merchant_id]
    return Origin(feature=feature, purchases=len(counted), counted=tuple(counted))


def _newest(places: list[int], past: Sequence[PastPurchase]) -> list[int]:
    return [max(places, key=lambda place: past[place].event_time_ms)] if places else []


def _of_merchant(
    feature: Feature, layout: MerchantLayout | None, event_time_ms: int, past: MerchantPast | None
) -> Origin:
    assert layout is not None  # noqa: S101  a set with features of merchants has one
    assert feature.window_ms is not None  # noqa: S101  and each of these has a window
    # A tile is closed on the right and counts when its end lies in the window: both ends move back to a tile's end.
    end_ms = event_time_ms // layout.tile_ms * layout.tile_ms - feature.delay_ms
    after_ms, until_ms = (
        moment_ms // feature.resolution_ms * feature.resolution_ms for moment_ms in (end_ms - feature.window_ms, end_ms)
    )
    if past is None:
        return Origin(feature=feature, after_ms=after_ms, until_ms=until_ms)
    times = past.purchase_times_ms
    purchases = bisect_right(times, until_ms) - bisect_right(times, after_ms)
    frauds = None
    if feature.aggregation in RISKS:
        frauds = sum(
            entry.delta
            for entry in past.frauds
            if after_ms < entry.event_time_ms <= until_ms
            and layout.fraud_tile(entry.effective_ms) * layout.fraud_tile_ms <= event_time_ms
        )
    return Origin(feature=feature, after_ms=after_ms, until_ms=until_ms, purchases=purchases, frauds=frauds)
