"""How far a figure would move had other cards been customers: bootstrap over whole cards."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.scored_rows import ScoredRows

RESAMPLES: Final = 200
_SEED: Final = 0
_ENDS: Final = (2.5, 97.5)

Weights = NDArray[np.float64]


def intervals(rows: ScoredRows, *, resamples: int = RESAMPLES) -> dict[str, list[float] | None]:
    """95 % intervals: cards are drawn with replacement, each with all its rows, `resamples` times with a fixed seed.

    Returns:
        [2.5 %, 97.5 %] of `auc`, `average_precision`, and of `precision`, `recall` and `value_recall` of what was
        reviewed or declined; None where no more than half of the draws have a value.
    """
    cards, card = np.unique(rows.card_ids, return_inverse=True)
    ranking = WeightedRanking(rows.labels, rows.scores)
    shares = _shares_by_card(rows, card, len(cards))
    drawn: dict[str, list[float]] = {name: [] for name in ("auc", "average_precision", *shares)}
    random = np.random.default_rng(_SEED)
    for _ in range(resamples):
        times = np.bincount(random.integers(len(cards), size=len(cards)), minlength=len(cards)).astype(np.float64)
        ranked = ranking.measure(times[card])
        if ranked is not None:
            drawn["auc"].append(ranked[0])
            drawn["average_precision"].append(ranked[1])
        for name, (part, whole) in shares.items():
            if total := _dot(times, whole):
                drawn[name].append(_dot(times, part) / total)
    return {
        name: np.percentile(values, _ENDS).tolist() if 2 * len(values) > resamples else None
        for name, values in drawn.items()
    }


def _shares_by_card(rows: ScoredRows, card: NDArray[np.intp], cards: int) -> dict[str, tuple[Weights, Weights]]:
    """Numerator and denominator of each share, summed by card."""
    is_fraud = rows.labels == 1

    def summed(values: NDArray[Any]) -> Weights:
        total: Weights = np.bincount(card, values, minlength=cards).astype(np.float64)
        return total

    caught, frauds = summed(is_fraud & rows.reviewed), summed(is_fraud)
    return {
        "precision": (caught, summed(rows.reviewed)),
        "recall": (caught, frauds),
        "value_recall": (summed((is_fraud & rows.reviewed) * rows.amounts), summed(is_fraud * rows.amounts)),
    }


class WeightedRanking:
    """AUC and average precision of one ranking under many weightings: it is sorted once."""

    def __init__(self, labels: NDArray[Any], scores: NDArray[Any]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._is_fraud = (labels[self._order] == 1).astype(np.float64)
        self._last_of_run = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def measure(self, weights: Weights) -> tuple[float, float] | None:
        """AUC and average precision of rows that count `weights` times; None unless both classes count."""
        ranked = weights[self._order]
        caught = np.cumsum(ranked * self._is_fraud)[self._last_of_run]
        flagged = np.cumsum(ranked)[self._last_of_run]
        wrong = flagged - caught
        if caught[-1] == 0 or wrong[-1] == 0:
            return None
        area = _dot(np.diff(wrong, prepend=0.0), caught + np.append(0.0, caught[:-1])) / 2
        counted = flagged > 0
        precisions = caught[counted] / flagged[counted]
        steps = np.diff(caught, prepend=0.0)[counted]
        return float(area / (caught[-1] * wrong[-1])), float(_dot(steps, precisions) / caught[-1])


def _dot(first: Weights, second: Weights) -> float:
    """NumPy's own sum: that of a linear algebra library may depend on its number of threads."""
    return float(np.sum(first * second))
