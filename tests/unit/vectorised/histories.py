"""Histories that try every way round, and the scalar path's answers about them."""

from __future__ import annotations

import math
import struct

import numpy as np
from hypothesis import strategies as st

from producers.labels import label_of
from stream_features.feature_sets import FeatureSet
from stream_features.history import observe_history
from stream_features.transaction import Transaction

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
START_MS = 1_533_081_600_000  # 2018-08-01, a Wednesday

gaps = st.one_of(
    st.sampled_from([0, 0, 1, SECOND_MS, MINUTE_MS - 1, MINUTE_MS, MINUTE_MS + 1, HOUR_MS, DAY_MS, 7 * DAY_MS]),
    st.integers(0, 10 * MINUTE_MS),
    st.integers(0, 3 * DAY_MS),
    st.sampled_from([30 * DAY_MS, 31 * DAY_MS, 40 * DAY_MS]),
)


History = list[tuple[Transaction, bool | None]]


@st.composite
def histories(draw: st.DrawFn, most: int = 40) -> History:
    """Transactions of a few cards at a few merchants in event-time order, every id once."""
    time_ms = START_MS + draw(st.integers(0, 2 * HOUR_MS))
    history = []
    for number in range(draw(st.integers(1, most))):
        time_ms += draw(gaps)
        place = draw(st.sampled_from([None, (0.0, 0.0), (52.5, 13.4), (90.0, -180.0), (-33.25, 179.999999)]))
        history.append(
            (
                Transaction(
                    transaction_id=f"t-{draw(st.integers(0, 9))}-{number}",
                    event_time_ms=time_ms,
                    card_id=f"card-{draw(st.integers(0, 2))}",
                    merchant_id=f"merchant-{draw(st.integers(0, 3))}",
                    amount_minor=draw(st.one_of(st.integers(0, 300), st.sampled_from([0, 10**12, 99_999]))),
                    currency=draw(st.sampled_from(["USD", "USD", "EUR", "JPY"])),
                    type=draw(st.sampled_from(["purchase", "purchase", "purchase", "refund", "reversal"])),
                    country=draw(st.sampled_from([None, "DE", "US"])),
                    latitude=None if place is None else place[0],
                    longitude=None if place is None else place[1],
                ),
                draw(st.sampled_from([True, True, False, None])),
            )
        )
    return history


def scalar_values(history: History, features: FeatureSet, label_delay_ms: int = 5 * DAY_MS) -> list[tuple[float, ...]]:
    labels = [
        label_of(transaction, is_fraud, label_delay_ms=label_delay_ms)
        for transaction, is_fraud in history
        if is_fraud is not None
    ]
    labels.sort(key=lambda label: label.reported_at_ms)
    return [o.values for _, o in observe_history([t for t, _ in history], features, labels)]


def assert_same_bits(expected: list[tuple[float, ...]], actual: np.ndarray, features: FeatureSet) -> None:
    assert actual.shape == (len(expected), len(features.names))
    for row, (wanted, found) in enumerate(zip(expected, actual.tolist(), strict=True)):
        for name, one, other in zip(features.names, wanted, found, strict=True):
            same = (math.isnan(one) and math.isnan(other)) or struct.pack("d", one) == struct.pack("d", other)
            assert same, f"row {row}: {name} is {other!r}, the scalar path says {one!r}"
