"""A file read as columns is the history that its rows would have made."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from console.history_file import read_history
from producers.file_writer import write_transactions
from producers.files import FileRow, read_transactions
from producers.simulator import simulate
from stream_features.feature_sets import CORE
from stream_features.vectorised.backfill import backfill
from stream_features.vectorised.columns import HistoryColumns, history_columns
from tests.unit.vectorised.histories import DAY_MS, assert_same_bits, histories, scalar_values


def plain(columns: HistoryColumns) -> dict[str, list[object]]:
    """Every column by value, so that codes may differ."""
    decoded = {
        "cards": [columns.card_ids[code] for code in columns.cards],
        "merchants": [columns.merchant_ids[code] for code in columns.merchants],
        "currencies": [columns.currency_codes[code] for code in columns.currencies],
    }
    names = [field.name for field in dataclasses.fields(columns)]
    arrays = {name: getattr(columns, name) for name in names}
    return {name: v.tolist() for name, v in arrays.items() if isinstance(v, np.ndarray)} | decoded


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(most=8))
def test_columns_of_a_file_are_those_of_its_rows(tmp_path, suffix, history):
    path = tmp_path / f"history{suffix}"
    write_transactions(path, [FileRow(*row) for row in history])
    assert plain(read_history(path, None)) == plain(history_columns(history))


def test_a_simulated_history_from_its_file_to_its_features(tmp_path):
    path = tmp_path / "history.parquet"
    write_transactions(path, simulate(3_000, seed=11, end_ms=1_700_000_000_000))
    history = [(row.transaction, row.is_fraud) for row in read_transactions(path)]
    values = backfill(read_history(path, None), CORE, label_delay_ms=5 * DAY_MS)
    assert_same_bits(scalar_values(history, CORE), values, CORE)
    risk = values[:, CORE.names.index("merchant_count_1d_delayed")]
    assert np.nanmax(risk) > 0
