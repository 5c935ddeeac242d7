"""Parts of the vectorised path on ground that random histories seldom reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.card_event import LATITUDE_SHIFT, card_event
from stream_features.distance import metres_between
from stream_features.feature_sets import CORE, HANDBOOK
from stream_features.transaction import Transaction
from stream_features.vectorised.backfill import ScalarEntities, backfill
from stream_features.vectorised.columns import history_columns, micro_degrees
from stream_features.vectorised.distances import metres_between_all
from stream_features.vectorised.ranges import distinct_counts, previous_places, range_maxima
from tests.unit.vectorised.histories import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    START_MS,
    History,
    assert_same_bits,
    scalar_values,
)

latitudes = st.one_of(st.integers(-90_000_000, 90_000_000), st.sampled_from([-90_000_000, 0, 1, 90_000_000]))
longitudes = st.one_of(st.integers(-180_000_000, 180_000_000), st.sampled_from([-180_000_000, 0, 180_000_000]))
places = st.tuples(latitudes, longitudes)


def a_purchase(number: int, event_time_ms: int, **changes: object) -> Transaction:
    fields = {
        "transaction_id": f"t-{number}",
        "event_time_ms": event_time_ms,
        "card_id": f"card-{number}",
        "merchant_id": "merchant",
        "amount_minor": 100,
        "currency": "USD",
    }
    return Transaction(**{**fields, **changes})  # type: ignore[arg-type]


def assert_as_scalar(history: History, label_delay_ms: int) -> None:
    for features in (CORE, HANDBOOK):
        scalar = ScalarEntities()
        values = backfill(history_columns(history), features, label_delay_ms=label_delay_ms, scalar=scalar)
        assert_same_bits(scalar_values(history, features, label_delay_ms), values, features)
        assert scalar == ScalarEntities()


@given(pairs=st.lists(st.tuples(places, places), min_size=1, max_size=20))
def test_distances_are_the_scalar_ones(pairs):
    columns = [np.array(column, dtype=np.int64) for column in zip(*((*a, *b) for a, b in pairs), strict=True)]
    assert metres_between_all(*columns).tolist() == [metres_between(*a, *b) for a, b in pairs]


@given(
    st.lists(st.one_of(st.floats(-90, 90), st.integers(-180_000_000, 180_000_000).map(lambda n: n / 2e6)), min_size=1)
)
def test_places_round_as_the_kernel_rounds_them(degrees):
    expected = [card_event(a_purchase(1, 0, latitude=value, longitude=0.0)).latitude_e6 for value in degrees]
    assert micro_degrees(np.array(degrees), LATITUDE_SHIFT).tolist() == expected


@given(st.lists(st.integers(0, 9), max_size=40), st.data())
def test_ranges_by_brute_force(values, data):
    ends = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=20)))
    firsts = sorted(data.draw(st.integers(0, end)) for end in ends)
    array, first, end = (np.array(numbers, dtype=np.int64) for numbers in (values, firsts, ends))
    assert range_maxima(array, first, end).tolist() == [
        max(values[a:b], default=0) for a, b in zip(firsts, ends, strict=True)
    ]
    row_of = np.searchsorted(end, np.arange(len(values)), side="right")
    counted = distinct_counts(previous_places(array), row_of, first, end)
    assert counted.tolist() == [len(set(values[a:b])) for a, b in zip(firsts, ends, strict=True)]


@settings(max_examples=30)
@given(st.permutations(range(6)))
def test_of_places_at_one_time_the_greatest_id_hash_is_the_last(order):
    history: History = []
    for number in order:
        place = {"card_id": "card", "latitude": float(number), "longitude": float(number)}
        history.append((a_purchase(number, START_MS, **place), False))
    history.append((a_purchase(99, START_MS + HOUR_MS, card_id="card", latitude=50.0, longitude=8.0), False))
    assert_as_scalar(history, DAY_MS)


@pytest.mark.parametrize("label_delay_ms", [0, 5 * DAY_MS, 7 * DAY_MS, 8 * DAY_MS, 20 * DAY_MS, 45 * DAY_MS])
def test_one_busy_merchant_whose_labels_come_before_and_after_their_windows(label_delay_ms):
    history: History = [(a_purchase(n, START_MS + n * 5 * HOUR_MS + (n % 7) * 601_000), n % 4 == 0) for n in range(400)]
    assert_as_scalar(history, label_delay_ms)
    values = backfill(history_columns(history), CORE, label_delay_ms=label_delay_ms)
    risk = values[:, CORE.names.index("merchant_risk_30d")]
    assert (np.nanmax(risk) > 0) == (label_delay_ms < 37 * DAY_MS)


@pytest.mark.parametrize("delay_days", [7, 8, 30])
def test_a_label_takes_effect_two_minutes_after_its_report_in_the_sets_own_tiles(delay_days):
    reported_ms = START_MS + delay_days * DAY_MS
    after = [0, 1, MINUTE_MS, 2 * MINUTE_MS - 1, 2 * MINUTE_MS, 2 * MINUTE_MS + 1, HOUR_MS - 1, HOUR_MS, HOUR_MS + 1]
    for event_ms in (START_MS, START_MS + 1, START_MS - 1):
        history: History = [(a_purchase(0, event_ms), True)]
        history += [(a_purchase(1 + n, reported_ms + wait_ms), False) for n, wait_ms in enumerate(after)]
        assert_as_scalar(history, delay_days * DAY_MS)


def test_amounts_beyond_64_bits_on_the_way_and_beyond_32_in_the_sum():
    history: History = [
        (a_purchase(n, START_MS + n, card_id="card", amount_minor=10**12 - n, currency=currency), False)
        for n, currency in enumerate(["USD", "EUR", "GBP", "JPY", "USD"] * 3)
    ]
    assert_as_scalar(history, DAY_MS)
