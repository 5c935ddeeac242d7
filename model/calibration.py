"""The booster's scores as calibrated ones: the one computation that training, the report and the container share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.artifact import Calibration


def calibrated(calibration: Calibration | None, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's scores for the booster's; the same array where the model has no calibration.

    Between two points of the calibration the probability lies on the line through them, beyond its ends it is that of
    the end. Each step is one IEEE operation in float64, rounded to float32 once, so that every machine gets the same
    bits.

    Args:
        calibration: as `check_artifact` accepts it.
        scores: shape (rows,), 0..1.
    """
    if calibration is None:
        return scores
    points = np.array(calibration.scores, dtype=np.float64)
    probabilities = np.array(calibration.probabilities, dtype=np.float64)
    inside = np.clip(scores.astype(np.float64), points[0], points[-1])
    if len(points) == 1:
        return np.full(len(scores), probabilities[0], dtype=np.float32)
    left = np.minimum(np.searchsorted(points, inside, side="right") - 1, len(points) - 2)
    share = (inside - points[left]) / (points[left + 1] - points[left])
    rise = share * (probabilities[left + 1] - probabilities[left])
    answer: NDArray[np.float32] = (probabilities[left] + rise).astype(np.float32)
    return answer
