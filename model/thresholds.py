"""The scores from which a transaction is reviewed or declined."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.artifact import Thresholds
from model.ranking import threshold_cuts

DEFAULT_THRESHOLDS: Final = Thresholds(review_from=0.5, decline_from=0.9)
DECLINE_PRECISION: Final = 0.9


def choose_thresholds(labels: NDArray[np.uint8], scores: NDArray[np.float32]) -> Thresholds:
    """Thresholds by validation rows alone.

    * `review_from` is the score that maximises F1 of "score >= threshold" (the highest one where several do).
    * `decline_from` is the lowest score at and above which precision is at least 0.9; where no score reaches that, it
      stays at the default 0.9. It is never below `review_from`.

    Args:
        labels: shape (rows,), 1 = fraud; at least one.
        scores: shape (rows,), float32 in 0..1; thresholds are such scores, widened, so that ">=" is exact.
    """
    candidates, flagged, caught = threshold_cuts(labels, scores)
    f1 = 2.0 * caught / (flagged + int(labels.sum()))
    review_from = float(candidates[int(np.argmax(f1))])
    precise = np.flatnonzero(caught / flagged >= DECLINE_PRECISION)
    decline_from = float(candidates[precise[-1]]) if len(precise) else DEFAULT_THRESHOLDS.decline_from
    return Thresholds(review_from=review_from, decline_from=max(review_from, decline_from))
