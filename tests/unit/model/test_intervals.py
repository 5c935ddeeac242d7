"""The bootstrap over cards: its weighted figures are scikit-learn's, its draws are whole cards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from model.intervals import WeightedRanking, intervals
from tests.unit.model.scored import random_rows, row_lists, scored_rows


@given(row_lists, st.randoms(use_true_random=False))
def test_weighted_figures_are_those_of_repeated_rows(rows, random):
    judged = scored_rows(rows)
    weights = np.array([random.randint(0, 3) for _ in rows])
    measured = WeightedRanking(judged.labels, judged.scores).measure(weights.astype(np.float64))
    labels, scores = np.repeat(judged.labels, weights), np.repeat(judged.scores, weights)
    if 0 < labels.sum() < len(labels):
        expected = (roc_auc_score(labels, scores), average_precision_score(labels, scores))
        assert measured == pytest.approx(expected)
    else:
        assert measured is None


def test_intervals_hold_the_figure_and_shrink_with_more_cards():
    few, many = (random_rows(rows, cards=rows // 20) for rows in (1_000, 10_000))
    for judged in (few, many):
        low, high = intervals(judged)["auc"]
        assert low < roc_auc_score(judged.labels, judged.scores) < high
    assert np.diff(intervals(many)["auc"]) < np.diff(intervals(few)["auc"])


def test_cards_are_drawn_whole():
    """Ten copies of each row on its card say nothing new, so the interval must not shrink."""
    once = random_rows(400, cards=100, share=0.2)
    copied = dataclasses.replace(
        once,
        **{
            field.name: np.repeat(getattr(once, field.name), 10)
            for field in dataclasses.fields(once)
            if field.name != "segmentations"
        },
    )
    assert intervals(copied)["recall"] == pytest.approx(intervals(once)["recall"])


def test_the_same_rows_give_the_same_intervals():
    assert intervals(random_rows(500)) == intervals(random_rows(500))


def test_what_no_draw_knows_has_no_interval():
    legitimate = intervals(random_rows(50, share=0.0))
    assert (legitimate["auc"], legitimate["recall"], legitimate["value_recall"]) == (None, None, None)
    unalerted = intervals(random_rows(50, share=0.5, review_from=2.0, decline_from=2.0))
    assert unalerted["precision"] is None
    assert unalerted["recall"] == [0.0, 0.0]
