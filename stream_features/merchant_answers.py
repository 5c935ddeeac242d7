"""What is asked of a merchant as of a transaction: in the kernel's one pass, or afterwards, where cards stand apart."""

from __future__ import annotations

from collections.abc import Sequence

from stream_features.feature_plan import Plan, feature_plan
from stream_features.feature_sets import FeatureSet
from stream_features.merchant_state import MerchantLayout, MerchantState


def with_merchant(
    features: FeatureSet, values: Sequence[float], event_time_ms: int, merchant: MerchantState | None
) -> tuple[float, ...]:
    """`values` with the merchant's answers in their places, as `observe` gives them in one pass.

    Args:
        features: the feature set.
        values: what `observe` gave without a merchant, in feature-set order; of an observation that is not stateless.
        event_time_ms: of the transaction, epoch ms.
        merchant: what is known of its merchant; None for nothing.
    """
    plan = feature_plan(features)
    if merchant is None or plan.merchant_layout is None:
        return tuple(values)
    answers = merchant_answers(plan, plan.merchant_layout, merchant, event_time_ms)
    found = list(values)
    for column, answer in plan.merchant_columns:
        found[column] = answers[answer]
    return tuple(found)


def merchant_answers(
    plan: Plan, layout: MerchantLayout, merchant: MerchantState | None, time_ms: int
) -> Sequence[float]:
    """The plan's answers about a merchant as of `time_ms` (epoch ms): counts of its windows, then risks."""
    if merchant is None:
        return plan.no_merchant
    now_ms = time_ms // layout.tile_ms * layout.tile_ms
    windows = [(now_ms - reach_ms, now_ms - delay_ms) for delay_ms, reach_ms in plan.merchant_windows]
    counts = merchant.purchases_in(layout, time_ms, windows)
    answers = [*map(float, counts)]
    has_frauds = bool(merchant.frauds.keys)
    for window, empty in plan.risks:
        count = counts[window]
        if not count:
            answers.append(empty)
        elif has_frauds:
            answers.append(float(merchant.frauds_between(layout, time_ms, *windows[window])) / float(count))
        else:
            answers.append(0.0)
    return answers
