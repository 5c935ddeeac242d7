"""Whether a score of 0.3 means three frauds in ten."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as cross_entropy

# Finer where a rare class has its scores. Fixed, so that two models are compared by the same bins.
BIN_EDGES: Final = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_Z_95: Final = 1.959963984540054


def log_loss(labels: NDArray[Any], scores: NDArray[np.float64]) -> float | None:
    """Mean negative log-likelihood in nats; a certain score that is wrong costs 36. None without rows."""
    return float(cross_entropy(labels, scores, labels=[0, 1])) if len(labels) else None


def brier_score(labels: NDArray[Any], scores: NDArray[np.float64]) -> float | None:
    """Mean squared error of the probability; None without rows."""
    return float(brier_score_loss(labels, scores, pos_label=1)) if len(labels) else None


def brier_skill(labels: NDArray[Any], scores: NDArray[np.float64]) -> float | None:
    """1 - Brier score / Brier score of always saying the fraud share; None unless both classes are present."""
    share = float(np.mean(labels == 1)) if len(labels) else 0.0
    brier = brier_score(labels, scores)
    return None if brier is None or share in (0.0, 1.0) else 1.0 - brier / (share * (1.0 - share))


def calibration_bins(labels: NDArray[Any], scores: NDArray[np.float64]) -> list[dict[str, float | int]]:
    """Mean score and fraud share of the rows in each bin that has any.

    A bin holds `from <= score < to`, the last one 1 as well. `low` and `high` bound the observed share by Wilson's 95 %
    interval.
    """
    place = np.clip(np.searchsorted(BIN_EDGES, scores, side="right") - 1, 0, len(BIN_EDGES) - 2)
    rows = np.bincount(place, minlength=len(BIN_EDGES) - 1)
    frauds = np.bincount(place, labels == 1, minlength=len(rows))
    total = np.bincount(place, scores, minlength=len(rows))
    bins: list[dict[str, float | int]] = []
    for number in np.flatnonzero(rows).tolist():
        count, caught = int(rows[number]), int(frauds[number])
        low, high = wilson_interval(caught, count)
        bins.append(
            {
                "from": float(BIN_EDGES[number]),
                "to": float(BIN_EDGES[number + 1]),
                "rows": count,
                "frauds": caught,
                "mean_score": float(total[number]) / count,
                "observed": caught / count,
                "low": low,
                "high": high,
            }
        )
    return bins


def calibration_error(bins: list[dict[str, float | int]]) -> float | None:
    """Expected calibration error: |mean score - observed share|, averaged over rows; None without rows."""
    rows = sum(group["rows"] for group in bins)
    return sum(group["rows"] * abs(group["mean_score"] - group["observed"]) for group in bins) / rows if rows else None


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; `trials` at least 1."""
    share = successes / trials
    weight = _Z_95**2 / trials
    middle = (share + weight / 2) / (1 + weight)
    half = _Z_95 * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
