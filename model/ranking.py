"""What a ranking by score achieves at each threshold, at a wanted precision, and at the number of reviews one can pay.

A threshold takes all rows of equal score, so every curve here has one point per different score.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

CURVE_POINTS: Final = 300


class Cuts(NamedTuple):
    """What "score >= threshold" flags, one entry per different score, highest first.

    Attributes:
        thresholds: the scores, of their own type.
        flagged: rows at or above, int64.
        caught: frauds among them, int64.
    """

    thresholds: NDArray[Any]
    flagged: NDArray[np.int64]
    caught: NDArray[np.int64]


def threshold_cuts(labels: NDArray[Any], scores: NDArray[Any]) -> Cuts:
    """Every possible threshold; no entry where there are no rows."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_run = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    caught = np.cumsum(labels[order] == 1, dtype=np.int64)
    return Cuts(ranked[last_of_run], last_of_run + 1, caught[last_of_run])


def best_f1(cuts: Cuts, frauds: int) -> dict[str, float | None]:
    """The highest F1 of any threshold and the highest threshold that reaches it; both None without rows."""
    if not len(cuts.thresholds):
        return {"f1": None, "threshold": None}
    f1 = 2.0 * cuts.caught / (cuts.flagged + frauds)
    best = int(np.argmax(f1))
    return {"f1": float(f1[best]), "threshold": float(cuts.thresholds[best])}


def recall_at_precision(cuts: Cuts, frauds: int, precision: float) -> dict[str, float | int | None]:
    """The highest recall of any threshold whose precision is at least `precision`; recall None without fraud.

    Where no threshold is that precise, recall and alerts are 0 and the threshold is None.
    """
    precise = np.flatnonzero(cuts.caught / cuts.flagged >= precision)
    if not frauds or not len(precise):
        return {"precision": precision, "recall": 0.0 if frauds else None, "alerts": 0, "threshold": None}
    # Among thresholds of one recall the highest raises the fewest alerts.
    best = int(precise[np.argmax(cuts.caught[precise])])
    return {
        "precision": precision,
        "recall": int(cuts.caught[best]) / frauds,
        "alerts": int(cuts.flagged[best]),
        "threshold": float(cuts.thresholds[best]),
    }


class CapacityRanking:
    """Rows ranked within their day, to ask what reviewing the N highest scores of every day finds.

    Rows of one score share the places that are left for them: each counts with the probability that it is looked at
    when the reviewer takes equal scores in any order, so no figure depends on the order of rows.
    """

    def __init__(
        self, labels: NDArray[Any], scores: NDArray[Any], amounts: NDArray[np.int64], days: NDArray[np.int64]
    ) -> None:
        """Rank the rows.

        Args:
            labels: shape (rows,), 1 = fraud.
            scores: shape (rows,).
            amounts: shape (rows,), US cents.
            days: shape (rows,), integers.
        """
        order = np.lexsort((-scores, days))
        day, score = days[order], scores[order]
        place = np.arange(len(order))
        new_day = np.append(True, day[1:] != day[:-1])[: len(order)]
        new_run = new_day | np.append(True, score[1:] != score[:-1])[: len(order)]
        run = np.cumsum(new_run) - 1
        run_size = np.bincount(run)
        self._before = (place - np.maximum.accumulate(np.where(new_day, place, 0)))[new_run]  # rows of the day above
        self._size = run_size
        is_fraud = labels[order] == 1
        self._frauds = np.bincount(run, is_fraud, minlength=len(run_size))
        self._fraud_amount = np.bincount(run, is_fraud * amounts[order], minlength=len(run_size))
        self.days = int(new_day.sum())
        self.busiest_day = int(np.bincount(np.cumsum(new_day) - 1).max(initial=0)) if len(order) else 0

    def review(self, per_day: int) -> dict[str, float | int | None]:
        """What the `per_day` highest scores of each day hold; quotients without a denominator are None."""
        share = np.clip((per_day - self._before) / self._size, 0.0, 1.0)
        alerts = float((share * self._size).sum())
        caught = float((share * self._frauds).sum())
        caught_amount = float((share * self._fraud_amount).sum())
        return {
            "per_day": per_day,
            "alerts": round(alerts),
            "precision": quotient(caught, alerts),
            "recall": quotient(caught, float(self._frauds.sum())),
            "value_recall": quotient(caught_amount, float(self._fraud_amount.sum())),
        }


def quotient(part: float, whole: float) -> float | None:
    """`part / whole`, None where there is nothing to divide by."""
    return float(part / whole) if whole else None


def roc_points(cuts: Cuts, frauds: int, rows: int) -> list[list[float]]:
    """(false positive rate, recall) from (0, 0) to (1, 1), thinned; empty unless both classes are present."""
    if not 0 < frauds < rows:
        return []
    recall = np.append(0, cuts.caught) / frauds
    false_positives = np.append(0, cuts.flagged - cuts.caught) / (rows - frauds)
    return _thinned(false_positives, recall)


def precision_recall_points(cuts: Cuts, frauds: int) -> list[list[float]]:
    """(recall, precision) from the highest threshold to the lowest, thinned; empty without fraud."""
    return _thinned(cuts.caught / frauds, cuts.caught / cuts.flagged) if frauds else []


def round_numbers(most: int) -> Iterable[int]:
    """1, 2, 5, 10, 20, 50 ... up to `most`."""
    power = 1
    while power <= most:
        yield from (factor * power for factor in (1, 2, 5) if factor * power <= most)
        power *= 10


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[list[float]]:
    """At most about `CURVE_POINTS` of the points, evenly spaced along the curve, its two ends among them."""
    walked = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    mark = np.floor(walked / max(float(walked[-1]), 1e-12) * CURVE_POINTS)
    kept = np.unique(np.append(np.flatnonzero(np.append(True, mark[1:] != mark[:-1])), len(x) - 1))
    return [[float(across), float(up)] for across, up in zip(x[kept], y[kept], strict=True)]
