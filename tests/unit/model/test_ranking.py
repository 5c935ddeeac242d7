"""Curves, fixed precision and review capacity, against plain restatements and scikit-learn."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from model.ranking import (
    CURVE_POINTS,
    CapacityRanking,
    best_f1,
    precision_recall_points,
    recall_at_precision,
    roc_points,
    round_numbers,
    threshold_cuts,
)
from tests.unit.model.scored import random_rows, row_lists, scored_rows

NO_LABELS, NO_SCORES = np.array([], dtype=np.uint8), np.array([], dtype=np.float64)


@given(row_lists)
def test_every_different_score_is_one_cut(rows):
    judged = scored_rows(rows)
    cuts = threshold_cuts(judged.labels, judged.scores)
    expected = sorted(set(judged.scores.tolist()), reverse=True)
    assert cuts.thresholds.tolist() == expected
    assert cuts.flagged.tolist() == [sum(score >= limit for score in judged.scores) for limit in expected]
    assert cuts.caught.tolist() == [int(judged.labels[judged.scores >= limit].sum()) for limit in expected]


@given(row_lists, st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9, 1.0]))
def test_recall_at_precision_is_the_best_of_all_thresholds(rows, wanted):
    judged = scored_rows(rows)
    frauds = int(judged.labels.sum())
    found = recall_at_precision(threshold_cuts(judged.labels, judged.scores), frauds, wanted)
    options = []
    for limit in set(judged.scores.tolist()):
        flagged = judged.scores >= limit
        caught = int(judged.labels[flagged].sum())
        if caught / flagged.sum() >= wanted:
            options.append((caught, limit, int(flagged.sum())))
    if not frauds:
        assert found["recall"] is None
    elif not options:
        assert found == {"precision": wanted, "recall": 0.0, "alerts": 0, "threshold": None}
    else:
        caught, limit, alerts = max(options)  # the most frauds, then the highest threshold
        assert found == {"precision": wanted, "recall": caught / frauds, "alerts": alerts, "threshold": limit}


def test_recall_at_precision_agrees_with_scikit_learns_curve():
    judged = random_rows(3_000)
    precision, recall, _ = precision_recall_curve(judged.labels, judged.scores)
    cuts = threshold_cuts(judged.labels, judged.scores)
    for wanted in (0.1, 0.5, 0.9):
        found = recall_at_precision(cuts, int(judged.labels.sum()), wanted)
        assert found["recall"] == pytest.approx(recall[precision >= wanted].max())


def test_a_precision_of_exactly_nine_in_ten_is_nine_in_ten():
    labels = np.array([1] * 9 + [0], dtype=np.uint8)
    found = recall_at_precision(threshold_cuts(labels, np.full(10, 0.5)), 9, 0.9)
    assert found["recall"] == 1.0


@given(row_lists)
def test_best_f1_is_the_best_of_all_thresholds(rows):
    judged = scored_rows(rows)
    frauds = int(judged.labels.sum())
    best = best_f1(threshold_cuts(judged.labels, judged.scores), frauds)
    options = []
    for limit in set(judged.scores.tolist()):
        flagged = judged.scores >= limit
        options.append((2 * int(judged.labels[flagged].sum()) / (int(flagged.sum()) + frauds), limit))
    assert (best["f1"], best["threshold"]) == (pytest.approx(max(options)[0]), max(options)[1])


def test_without_rows_nothing_is_found():
    cuts = threshold_cuts(NO_LABELS, NO_SCORES)
    assert len(cuts.thresholds) == 0
    assert best_f1(cuts, 0) == {"f1": None, "threshold": None}
    assert recall_at_precision(cuts, 0, 0.5)["recall"] is None
    assert roc_points(cuts, 0, 0) == []
    assert precision_recall_points(cuts, 0) == []
    empty = CapacityRanking(NO_LABELS, NO_SCORES, np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert empty.review(10) == {"per_day": 10, "alerts": 0, "precision": None, "recall": None, "value_recall": None}
    assert (empty.days, empty.busiest_day) == (0, 0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_roc(label):
    cuts = threshold_cuts(np.full(5, label, dtype=np.uint8), np.linspace(0, 1, 5))
    assert roc_points(cuts, 5 * label, 5) == []
    assert bool(precision_recall_points(cuts, 5 * label)) == bool(label)


def test_curves_pass_through_the_points_of_scikit_learn():
    judged = random_rows(2_000)
    frauds = int(judged.labels.sum())
    cuts = threshold_cuts(judged.labels, judged.scores)
    false_positives, recall, _ = roc_curve(judged.labels, judged.scores, drop_intermediate=False)
    assert np.array(roc_points(cuts, frauds, len(judged))) == pytest.approx(np.stack([false_positives, recall], 1))
    precision, recall, _ = precision_recall_curve(judged.labels, judged.scores)
    expected = np.stack([recall[:-1], precision[:-1]], 1)[::-1]  # scikit-learn adds (0, 1), which no threshold gives
    assert np.array(precision_recall_points(cuts, frauds)) == pytest.approx(expected)


def test_long_curves_are_thinned_but_keep_their_ends_and_area():
    rng = np.random.default_rng(1)
    labels = (rng.random(50_000) < 0.02).astype(np.uint8)
    scores = rng.normal(labels * 1.5)
    points = np.array(roc_points(threshold_cuts(labels, scores), int(labels.sum()), len(labels)))
    assert len(points) <= CURVE_POINTS + 2
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    full = roc_curve(labels, scores)
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(auc(full[0], full[1]), abs=0.005)


tied_days = st.lists(
    st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(tied_days, st.integers(1, 4))
def test_capacity_is_the_mean_over_every_order_of_equal_scores(rows, per_day):
    day, fraud, score, amount = (np.array(column) for column in zip(*rows, strict=True))
    found = CapacityRanking(fraud.astype(np.uint8), score / 2, amount, day).review(per_day)
    outcomes = []
    for order in permutations(range(len(rows))):
        looked_at = []
        for today in set(day.tolist()):
            ranked = sorted((row for row in order if day[row] == today), key=lambda row: -score[row])
            looked_at += ranked[:per_day]
        caught = [row for row in looked_at if fraud[row]]
        outcomes.append((len(looked_at), len(caught), sum(int(amount[row]) for row in caught)))
    alerts, caught, value = np.mean(outcomes, axis=0)
    frauds, fraud_amount = int(fraud.sum()), int(amount[fraud].sum())
    assert found["alerts"] == alerts
    assert found["precision"] == pytest.approx(caught / alerts)
    assert found["recall"] == (pytest.approx(caught / frauds) if frauds else None)
    assert found["value_recall"] == (pytest.approx(value / fraud_amount) if frauds else None)


def test_a_capacity_beyond_all_rows_reviews_all_of_them_once():
    judged = random_rows(500)
    ranking = CapacityRanking(judged.labels, judged.scores, judged.amounts, judged.days)
    everything = ranking.review(10_000)
    assert (everything["alerts"], everything["recall"], everything["value_recall"]) == (500, 1.0, 1.0)
    assert ranking.days == 10
    assert ranking.busiest_day == np.bincount(judged.days).max()


def test_capacities_shown_are_round_numbers():
    assert list(round_numbers(250)) == [1, 2, 5, 10, 20, 50, 100, 200]
    assert list(round_numbers(0)) == []
