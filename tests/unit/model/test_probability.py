"""Log loss, Brier score and the calibration curve."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from model.probability import (
    BIN_EDGES,
    brier_score,
    brier_skill,
    calibration_bins,
    calibration_error,
    log_loss,
    wilson_interval,
)

judged = st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), min_size=1, max_size=60)


def columns(rows):
    return np.array([fraud for fraud, _ in rows], dtype=np.uint8), np.array([score for _, score in rows])


@given(judged)
def test_log_loss_and_brier_score_by_definition(rows):
    labels, scores = columns(rows)
    tiny = np.finfo(np.float64).eps
    likelihoods = [min(max(score if fraud else 1 - score, tiny), 1 - tiny) for fraud, score in rows]
    assert log_loss(labels, scores) == pytest.approx(-sum(map(math.log, likelihoods)) / len(rows), abs=1e-6)
    squares = [(score - fraud) ** 2 for fraud, score in rows]
    assert brier_score(labels, scores) == pytest.approx(sum(squares) / len(rows))


def test_a_certain_mistake_has_a_finite_price():
    assert log_loss(np.array([1], dtype=np.uint8), np.array([0.0])) == pytest.approx(36.04, abs=0.01)


@given(judged)
def test_bins_and_their_error_by_definition(rows):
    labels, scores = columns(rows)
    bins = calibration_bins(labels, scores)
    assert sum(group["rows"] for group in bins) == len(rows)
    error = 0.0
    for low, high in pairwise(BIN_EDGES):
        inside = [row for row in rows if low <= row[1] < high or (high == 1 and row[1] == 1)]
        found = [group for group in bins if group["from"] == low]
        assert len(found) == bool(inside)
        if inside:
            observed = sum(fraud for fraud, _ in inside) / len(inside)
            mean = sum(score for _, score in inside) / len(inside)
            assert (found[0]["observed"], found[0]["mean_score"]) == (pytest.approx(observed), pytest.approx(mean))
            error += abs(observed - mean) * len(inside) / len(rows)
    assert calibration_error(bins) == pytest.approx(error, abs=1e-12)


def test_bins_agree_with_scikit_learns_where_the_edges_are_the_same():
    rng = np.random.default_rng(2)
    scores = rng.uniform(0.1, 1.0, 4_000)
    labels = (rng.random(4_000) < scores).astype(np.uint8)
    observed, mean = calibration_curve(labels, scores, n_bins=10, strategy="uniform")
    bins = calibration_bins(labels, scores)
    assert [group["observed"] for group in bins] == pytest.approx(observed)
    assert [group["mean_score"] for group in bins] == pytest.approx(mean)


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilsons_interval_is_scipys(counts):
    low, high = binomtest(*counts).proportion_ci(method="wilson")
    assert wilson_interval(*counts) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_skill_is_zero_for_the_fraud_share_and_one_for_the_truth():
    labels = np.array([1, 0, 0, 0], dtype=np.uint8)
    assert brier_skill(labels, np.full(4, 0.25)) == pytest.approx(0.0)
    assert brier_skill(labels, labels.astype(np.float64)) == 1.0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_a_loss_but_no_skill(label):
    labels, scores = np.full(3, label, dtype=np.uint8), np.array([0.1, 0.5, 0.9])
    assert brier_skill(labels, scores) is None
    assert log_loss(labels, scores) > 0


def test_without_rows_nothing_is_known():
    labels, scores = np.array([], dtype=np.uint8), np.array([])
    assert (log_loss(labels, scores), brier_score(labels, scores), brier_skill(labels, scores)) == (None, None, None)
    assert calibration_bins(labels, scores) == []
    assert calibration_error([]) is None
