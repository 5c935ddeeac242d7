"""XGBoost, and nothing else: rows to a booster, a booster to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xgboost
from numpy.typing import NDArray

from model.parameters import Value
from stream_features.errors import UsageError


def fit(
    features: NDArray[np.float32],
    labels: NDArray[np.uint8],
    columns: Sequence[str],
    parameters: Mapping[str, Value],
) -> xgboost.Booster:
    """Boost trees on (rows, columns) float32 features; `parameters` as `model.parameters.complete` returns them.

    Raises:
        UsageError: XGBoost refuses a parameter.
    """
    settings = {name: value for name, value in parameters.items() if name != "n_estimators"}
    rows = xgboost.DMatrix(features, labels, feature_names=list(columns), nthread=int(parameters["nthread"]))
    try:
        return xgboost.train(
            {**settings, "objective": "binary:logistic", "verbosity": 0}, rows, int(parameters["n_estimators"])
        )
    except (xgboost.core.XGBoostError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"XGBoost refuses these parameters: {reason}") from error


def booster_scores(booster: xgboost.Booster, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fraud probability of each row, float32: exactly what the endpoint answers for it."""
    scores: NDArray[np.float32] = booster.inplace_predict(features, validate_features=False)
    return scores
