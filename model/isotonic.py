"""Fitting a calibration: isotonic regression on scores of rows that the scoring booster has not seen.

Every card is scored once by a booster of the same parameters trained on the other cards (5 folds); those scores and the
truth give the calibration of the booster trained on all rows. Validation rows have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from model.artifact import Calibration
from model.boosting import booster_scores, fit
from model.groups import card_folds
from model.parameters import Value
from model.training_set import TrainingSet

FOLDS: Final = 5


def fit_calibration(training: TrainingSet, parameters: Mapping[str, Value]) -> Calibration:
    """The calibration of a booster of these rows and parameters.

    Raises:
        UsageError: fewer than 5 cards with fraud, or legitimate rows of one fold's cards only.
    """
    return isotonic(training.labels, out_of_fold_scores(training, parameters))


def out_of_fold_scores(training: TrainingSet, parameters: Mapping[str, Value]) -> NDArray[np.float32]:
    """Each row's score by a booster that has seen no row of its card. Raises as `fit_calibration`."""
    fold = card_folds(training.card_ids, training.labels, FOLDS)
    scores = np.empty(len(training), dtype=np.float32)
    for number in range(FOLDS):
        seen, unseen = training.take(fold != number), fold == number
        booster = fit(seen.features, seen.labels, training.feature_set.names, parameters)
        scores[unseen] = booster_scores(booster, training.features[unseen])
    return scores


def isotonic(labels: NDArray[np.uint8], scores: NDArray[np.float32]) -> Calibration:
    """The rising step-and-slope line nearest to the labels.

    No score is calibrated to certainty: like Platt's targets, probabilities stay within 1 / (legitimate + 2) and
    (frauds + 1) / (frauds + 2).
    """
    frauds = int((labels == 1).sum())
    regression = IsotonicRegression(
        y_min=1 / (len(labels) - frauds + 2), y_max=(frauds + 1) / (frauds + 2), out_of_bounds="clip"
    ).fit(scores.astype(np.float64), labels.astype(np.float64))
    return Calibration(
        method="isotonic",
        scores=tuple(regression.X_thresholds_.tolist()),
        probabilities=tuple(regression.y_thresholds_.tolist()),
    )
