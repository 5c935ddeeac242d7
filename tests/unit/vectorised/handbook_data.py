"""Where the handbook's files are, and its history with all features, computed once per test run."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest

from console.history_file import read_history
from stream_features.feature_sets import HANDBOOK
from stream_features.vectorised.backfill import ScalarEntities, backfill
from stream_features.vectorised.columns import HistoryColumns

DAY_MS = 86_400_000
DATA = Path(os.environ.get("FRAUDSTREAM_DATA", Path(__file__).parents[4] / "shared" / "data"))
TRANSACTIONS = DATA / "handbook_dev_to_2018-08-14.parquet"
PUBLISHED = DATA / "handbook_transformed_3weeks.parquet"


def needs(*paths: Path) -> pytest.MarkDecorator:
    absent = [path.name for path in paths if not path.is_file()]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} not in FRAUDSTREAM_DATA ({DATA})")


@functools.cache
def history() -> HistoryColumns:
    return read_history(TRANSACTIONS, "handbook")


@functools.cache
def handbook_values() -> np.ndarray:
    scalar = ScalarEntities()
    values = backfill(history(), HANDBOOK, label_delay_ms=5 * DAY_MS, scalar=scalar)
    assert scalar == ScalarEntities()
    return values
