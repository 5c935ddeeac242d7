"""What the model looks at: gain of its splits, and exact TreeSHAP of rows it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xgboost
from numpy.typing import NDArray

MOST_ROWS_PER_CLASS: Final = 2_000

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Explained:
    """Rows with the share of every feature in their margin.

    Attributes:
        features: shape (rows, columns), float32, NaN = missing.
        contributions: shape (rows, columns), float32 log-odds.
        labels: shape (rows,), 1 = fraud.
        base: log-odds before any feature is known.
        margin_error: the largest difference between a row's margin and base plus contributions.
    """

    features: Matrix
    contributions: Matrix
    labels: NDArray[np.uint8]
    base: float
    margin_error: float


def gain_importance(booster: xgboost.Booster, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Every feature with the `splits` on it, their mean `gain` and their sum `total_gain`; the largest sum first."""
    scores: list[dict[str, Any]] = [
        booster.get_score(importance_type=kind) for kind in ("weight", "gain", "total_gain")
    ]
    splits, gain, total = scores
    listed = [
        {
            "feature": name,
            "splits": int(splits.get(name, 0)),
            "gain": float(gain.get(name, 0.0)),
            "total_gain": float(total.get(name, 0.0)),
        }
        for name in columns
    ]
    return sorted(listed, key=lambda entry: -float(entry["total_gain"]))  # stable: equal ones in column order


def explain_rows(
    booster: xgboost.Booster, features: Matrix, labels: NDArray[np.uint8], *, most: int = MOST_ROWS_PER_CLASS
) -> Explained:
    """Explain up to `most` frauds and as many legitimate rows, evenly spaced among all of their class."""
    rows = np.sort(np.concatenate([_evenly(np.flatnonzero(labels == label), most) for label in (0, 1)]))
    chosen = features[rows]
    matrix = xgboost.DMatrix(chosen, nthread=1)
    shares: Matrix = booster.predict(matrix, pred_contribs=True, validate_features=False)
    shares = shares.reshape(len(rows), features.shape[1] + 1)  # XGBoost answers no rows with a flat array
    margins = booster.predict(matrix, output_margin=True, validate_features=False)
    error = np.abs(shares.sum(axis=1, dtype=np.float64) - margins).max(initial=0.0)
    base = float(shares[0, -1]) if len(rows) else 0.0
    return Explained(chosen, np.ascontiguousarray(shares[:, :-1]), labels[rows], base, float(error))


def shap_summary(explained: Explained, columns: Sequence[str], fraud_share: float) -> dict[str, Any]:
    """Mean absolute contribution of each feature, largest first.

    Args:
        explained: rows of both classes, each a fair sample of its class.
        columns: the features' names.
        fraud_share: of all rows (0..1); weighs the two samples into the mean over all rows.

    Returns:
        `rows`, `frauds` (explained ones), `base`, `margin_error`, and `features`: name, `mean_abs`, `mean_abs_fraud`,
        `mean_abs_legitimate` (None without such rows) and `rising`: the rank correlation of value and contribution
        (-1..1, None where either is constant).
    """
    is_fraud = explained.labels == 1
    strength = np.abs(explained.contributions.astype(np.float64))
    listed = []
    for place, name in enumerate(columns):
        fraud, legitimate = (_mean(strength[rows, place]) for rows in (is_fraud, ~is_fraud))
        listed.append(
            {
                "feature": name,
                "mean_abs": fraud_share * (fraud or 0.0) + (1.0 - fraud_share) * (legitimate or 0.0),
                "mean_abs_fraud": fraud,
                "mean_abs_legitimate": legitimate,
                "rising": rank_correlation(explained.features[:, place], explained.contributions[:, place]),
            }
        )
    return {
        "rows": len(explained.labels),
        "frauds": int(is_fraud.sum()),
        "base": explained.base,
        "margin_error": explained.margin_error,
        "features": sorted(listed, key=lambda entry: -entry["mean_abs"]),
    }


def rank_correlation(values: NDArray[Any], contributions: NDArray[Any]) -> float | None:
    """Spearman's correlation over the rows whose value is known; None where either side is constant."""
    known = ~np.isnan(values)
    first, second = (_ranks(side[known]) for side in (values, contributions))
    if not len(first) or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    first, second = first - first.mean(), second - second.mean()
    return float(np.sum(first * second) / np.sqrt(np.sum(first * first) * np.sum(second * second)))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, rows = np.unique(values, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(rows) - (rows + 1) / 2
    return middle[place]


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
