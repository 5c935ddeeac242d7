"""Learning curves: by rounds of the booster itself, by growing sets of whole cards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss

from model import learning
from model.boosting import booster_scores, fit
from model.learning import CARD_SHARES, boosting_curve, card_curve
from model.parameters import complete
from model.train import split_for_validation
from model.training_set import TrainingSet, build_training_set
from stream_features.feature_sets import feature_set
from tests.unit.model.history import DAY_MS, START_MS, a_history

CORE = feature_set("core")
SETTINGS = complete({"n_estimators": 30})


@pytest.fixture(scope="module")
def split() -> tuple[TrainingSet, TrainingSet]:
    rows = build_training_set(a_history(), CORE)
    training, validation = split_for_validation(rows, from_ms=None, until_ms=None, valid_from_ms=START_MS + 27 * DAY_MS)
    assert validation is not None
    return training, validation


def figures(rows: TrainingSet, rounds: int, training: TrainingSet) -> dict[str, float]:
    booster = fit(training.features, training.labels, CORE.names, {**SETTINGS, "n_estimators": rounds})
    scores = booster_scores(booster, rows.features).astype(np.float64)
    return {
        "log_loss": pytest.approx(log_loss(rows.labels, scores)),
        "average_precision": pytest.approx(average_precision_score(rows.labels, scores)),
    }


def test_each_point_is_a_booster_of_so_many_rounds(split):
    training, validation = split
    booster = fit(training.features, training.labels, CORE.names, SETTINGS)
    curve = boosting_curve(booster, training, validation)
    rounds = [point["rounds"] for point in curve]
    assert rounds == sorted(set(rounds))
    assert (rounds[0] >= 1, rounds[-1]) == (True, 30)
    for point in (curve[0], curve[10], curve[-1]):
        assert point["training"] == figures(training, point["rounds"], training)
        assert point["validation"] == figures(validation, point["rounds"], training)


def test_without_validation_there_is_the_training_side_only(split):
    booster = fit(split[0].features, split[0].labels, CORE.names, complete({"n_estimators": 1}))
    assert [(point["rounds"], point["validation"]) for point in boosting_curve(booster, split[0], None)] == [(1, None)]


def test_card_sets_grow_and_end_with_all_of_them(split):
    training, validation = split
    said: list[str] = []
    curve = card_curve(training, validation, SETTINGS, progress=said.append)
    assert [point["share"] for point in curve] == list(CARD_SHARES)
    for name in ("cards", "rows", "frauds"):
        counts = [point[name] for point in curve]
        assert counts == sorted(counts)
    assert (curve[-1]["rows"], curve[-1]["cards"]) == (len(training), len(set(training.card_ids.tolist())))
    assert curve[-1]["validation"] == figures(validation, 30, training)
    assert len(said) == sum(point["validation"] is not None for point in curve)


def test_a_set_of_one_class_is_left_out(split):
    training, validation = split
    labels = np.zeros(len(training), dtype=np.uint8)
    shares = learning.card_shares(training.card_ids, "learning curve")
    labels[np.argmax(shares)] = 1  # only the last card to come in has fraud
    curve = card_curve(dataclasses.replace(training, labels=labels), validation, SETTINGS, progress=lambda _: None)
    assert [point["validation"] is None for point in curve] == [True] * 4 + [False]


def test_many_rows_are_thinned_evenly(split, monkeypatch):
    training, _ = split
    booster = fit(training.features, training.labels, CORE.names, complete({"n_estimators": 2}))
    monkeypatch.setattr(learning, "MOST_ROWS", 100)
    every = np.arange(100) * len(training) // 100
    last = boosting_curve(booster, training, None)[-1]
    scores = booster_scores(booster, training.features[every]).astype(np.float64)
    assert last["training"]["log_loss"] == pytest.approx(log_loss(training.labels[every], scores, labels=[0, 1]))
