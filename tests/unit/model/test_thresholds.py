"""Thresholds chosen on validation rows, against their definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.thresholds import DECLINE_PRECISION, DEFAULT_THRESHOLDS, choose_thresholds

# Few distinct scores, so that runs of equal scores are common.
scored_rows = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=60).filter(
    lambda rows: any(is_fraud for is_fraud, _ in rows)
)


def by_definition(rows: list[tuple[bool, float]]) -> tuple[float, float]:
    def counts(threshold: float) -> tuple[int, int]:
        flagged = [is_fraud for is_fraud, score in rows if score >= threshold]
        return sum(flagged), len(flagged)

    frauds = sum(is_fraud for is_fraud, _ in rows)
    best_f1, review_from, decline_from = -1.0, 0.0, None
    for threshold in sorted({score for _, score in rows}, reverse=True):
        caught, flagged = counts(threshold)
        f1 = 2 * caught / (flagged + frauds)
        if f1 > best_f1:
            best_f1, review_from = f1, threshold
        if caught / flagged >= DECLINE_PRECISION:
            decline_from = threshold
    if decline_from is None:
        decline_from = DEFAULT_THRESHOLDS.decline_from
    return review_from, max(review_from, decline_from)


@settings(max_examples=200)
@given(scored_rows)
def test_thresholds_agree_with_their_definition(rows):
    labels = np.array([is_fraud for is_fraud, _ in rows], dtype=np.uint8)
    scores = (np.array([step for _, step in rows]) / 12).astype(np.float32)
    chosen = choose_thresholds(labels, scores)
    expected = by_definition([(bool(label), float(score)) for label, score in zip(labels, scores, strict=True)])
    assert (chosen.review_from, chosen.decline_from) == expected


def test_a_perfect_ranking_is_cut_right_below_its_lowest_fraud():
    labels = np.array([1, 1, 0, 0], dtype=np.uint8)
    scores = np.array([0.9, 0.7, 0.3, 0.1], dtype=np.float32)
    chosen = choose_thresholds(labels, scores)
    assert chosen.review_from == chosen.decline_from == float(np.float32(0.7))
