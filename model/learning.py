"""Would more trees, or more cards, help? Measured on the booster's own scores, before any calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from model.boosting import booster_scores, fit
from model.groups import card_shares
from model.parameters import Value
from model.probability import log_loss
from model.training_set import TrainingSet

CARD_SHARES: Final = (0.1, 0.2, 0.4, 0.7, 1.0)
ROUND_POINTS: Final = 25
MOST_ROWS: Final = 200_000  # per point and side: more rows do not move a curve that the eye reads


def boosting_curve(
    booster: xgboost.Booster, training: TrainingSet, validation: TrainingSet | None
) -> list[dict[str, Any]]:
    """Log loss and average precision after some of the rounds, the last one included.

    Returns:
        `rounds`, `training` and `validation` (None without such rows), each `{log_loss, average_precision}`.
    """
    total = booster.num_boosted_rounds()
    points = sorted({round(total * step / ROUND_POINTS) for step in range(1, ROUND_POINTS + 1)} - {0})
    sides = {"training": _thinned(training), "validation": None if validation is None else _thinned(validation)}

    def measured(rows: TrainingSet | None, rounds: int) -> dict[str, float | None] | None:
        if rows is None:
            return None
        scores = booster.inplace_predict(rows.features, iteration_range=(0, rounds), validate_features=False)
        return _figures(rows.labels, scores)

    return [{"rounds": rounds, **{side: measured(rows, rounds) for side, rows in sides.items()}} for rounds in points]


def card_curve(
    training: TrainingSet,
    validation: TrainingSet,
    parameters: Mapping[str, Value],
    *,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Boosters of the same parameters trained on growing sets of whole cards, each set within the next.

    Returns:
        `share` (of all cards there could be, by hash), `cards`, `rows`, `frauds`, `training` and `validation` (None
        where the set holds one class only).
    """
    shares = card_shares(training.card_ids, "learning curve")
    seen_before = _thinned(validation)
    curve = []
    for share in CARD_SHARES:
        rows = training.take(shares < share)
        frauds = int(rows.labels.sum())
        point: dict[str, Any] = {
            "share": share,
            "cards": len(np.unique(rows.card_ids)),
            "rows": len(rows),
            "frauds": frauds,
            "training": None,
            "validation": None,
        }
        if 0 < frauds < len(rows):
            progress(f"learning curve: {share:.0%} of the cards")
            booster = fit(rows.features, rows.labels, rows.feature_set.names, parameters)
            for side, assessed in (("training", _thinned(rows)), ("validation", seen_before)):
                point[side] = _figures(assessed.labels, booster_scores(booster, assessed.features))
        curve.append(point)
    return curve


def _figures(labels: NDArray[np.uint8], scores: NDArray[np.float32]) -> dict[str, float | None]:
    wide = scores.astype(np.float64)
    both = 0 < int(labels.sum()) < len(labels)
    return {
        "log_loss": log_loss(labels, wide),
        "average_precision": float(average_precision_score(labels, wide)) if both else None,
    }


def _thinned(rows: TrainingSet) -> TrainingSet:
    """Evenly spaced rows, at most `MOST_ROWS` of them."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows.take(np.arange(MOST_ROWS) * len(rows) // MOST_ROWS)
