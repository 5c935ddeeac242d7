"""What a model can learn from simulated history: something, by the windows, but not everything."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost
from sklearn.metrics import average_precision_score

from producers.simulated_population import DAY_MS
from producers.simulator import simulate
from stream_features.feature_sets import CORE
from stream_features.history import observe_history

END_MS = 1_750_000_000_000
HISTORY, EVALUATED, DAYS, LABEL_GAP_MS = 40_000, 10_000, 45, 5 * DAY_MS
OF_THE_TRANSACTION = ("amount", "is_night", "is_weekend")


def average_precision(matrix: np.ndarray, truth: np.ndarray, trained: np.ndarray, evaluated: np.ndarray) -> float:
    parameters = {
        "objective": "binary:logistic",
        "eta": 0.1,
        "max_depth": 4,
        "base_score": 0.5,
        "nthread": 1,
        "seed": 1,
    }
    booster = xgboost.train(parameters, xgboost.DMatrix(matrix[trained], truth[trained]), num_boost_round=100)
    return float(average_precision_score(truth[evaluated], booster.predict(xgboost.DMatrix(matrix[evaluated]))))


@pytest.mark.parametrize("seed", [21, 22])
def test_windows_carry_the_signal_and_some_fraud_stays_hidden(seed: int) -> None:
    rows = list(simulate(HISTORY + EVALUATED, seed=seed, end_ms=END_MS, days=DAYS))
    observed = observe_history((row.transaction for row in rows), CORE)
    matrix = np.array([observation.values for _, observation in observed], dtype=np.float32)
    truth = np.array([row.is_fraud for row in rows])
    times_ms = np.array([row.transaction.event_time_ms for row in rows])
    evaluated = np.arange(len(rows)) >= HISTORY
    trained = times_ms < times_ms[HISTORY] - LABEL_GAP_MS
    with_windows = average_precision(matrix, truth, trained, evaluated)
    columns = [CORE.names.index(name) for name in OF_THE_TRANSACTION]
    without_windows = average_precision(matrix[:, columns], truth, trained, evaluated)
    assert 0.4 < with_windows < 0.95
    assert with_windows - without_windows > 0.15
