"""The vectorised path against the scalar one, bit for bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.feature_sets import CORE, HANDBOOK
from stream_features.vectorised.backfill import ScalarEntities, backfill
from stream_features.vectorised.columns import history_columns
from tests.unit.vectorised.histories import DAY_MS, HOUR_MS, assert_same_bits, histories, scalar_values

label_delays = st.sampled_from([0, 1, HOUR_MS, 5 * DAY_MS, 7 * DAY_MS, 8 * DAY_MS, 20 * DAY_MS])


@pytest.mark.parametrize("features", [CORE, HANDBOOK], ids=lambda features: features.name)
@settings(max_examples=150)
@given(history=histories(), label_delay_ms=label_delays)
def test_the_same_bits_as_the_scalar_path_and_no_card_goes_its_way(features, history, label_delay_ms):
    scalar = ScalarEntities()
    values = backfill(history_columns(history), features, label_delay_ms=label_delay_ms, scalar=scalar)
    assert_same_bits(scalar_values(history, features, label_delay_ms), values, features)
    assert scalar == ScalarEntities()


@pytest.mark.parametrize("features", [CORE, HANDBOOK], ids=lambda features: features.name)
@settings(max_examples=100)
@given(history=histories(most=25), label_delay_ms=label_delays, data=st.data())
def test_the_same_bits_in_any_order_of_arrival(features, history, label_delay_ms, data):
    history = data.draw(st.permutations(history))
    values = backfill(history_columns(history), features, label_delay_ms=label_delay_ms)
    assert_same_bits(scalar_values(history, features, label_delay_ms), values, features)
