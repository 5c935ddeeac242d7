"""The kernel against the oracle over whole histories, and the edges its docstrings name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.errors import MalformedRecord
from stream_features.feature_sets import CORE, HANDBOOK, FeatureSet
from stream_features.history import card_states, observe_history
from stream_features.kernel import card_event, features_json
from stream_features.label import Label
from stream_features.transaction import Transaction
from tests.oracle import assert_same_features, is_late, oracle_features
from tests.unit.stream_features.cards import a_full_transaction, a_transaction

DAY_MS = 86_400_000
START_MS = 1_600_000_000_000

steps = st.one_of(
    st.sampled_from([0, 1, 999, 1_000, 60_000, 600_000, 3_600_000, DAY_MS, 7 * DAY_MS, 30 * DAY_MS]),
    st.integers(0, 3_600_000),
    st.integers(0, 12 * DAY_MS),
)
delays = st.one_of(st.just(0), st.just(0), st.sampled_from([1, 60_000, DAY_MS]), st.integers(0, 35 * DAY_MS))
label_delays = st.one_of(
    st.sampled_from([0, 5 * DAY_MS, 7 * DAY_MS - 120_000, 7 * DAY_MS - 119_999, 7 * DAY_MS]),
    st.integers(0, 40 * DAY_MS),
)
places = st.one_of(
    st.none(),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    st.sampled_from([(0.0, 0.0), (-0.0, -180.0), (90.0, 180.0), (52.5200085, 13.4)]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Transaction]:
    """Arrivals of a few cards: late ones, ties, refunds, currencies, places, long silences."""
    time_ms = START_MS
    history = []
    for number in range(draw(st.integers(1, 30))):
        time_ms += draw(steps)
        place = draw(places)
        history.append(
            Transaction(
                transaction_id=f"t{number}",
                event_time_ms=time_ms - draw(delays),
                card_id=draw(st.sampled_from(["a", "a", "b"])),
                merchant_id=draw(st.sampled_from(["m", "n", "Café", "o"])),
                amount_minor=draw(st.one_of(st.integers(0, 5_000), st.sampled_from([0, 10**12]))),
                currency=draw(st.sampled_from(["USD", "USD", "EUR", "JPY"])),
                type=draw(st.sampled_from(["purchase", "purchase", "purchase", "refund", "reversal"])),
                country=draw(st.sampled_from([None, "DE", "US"])),
                latitude=place and place[0],
                longitude=place and place[1],
            )
        )
    return history


@st.composite
def labels_of(draw: st.DrawFn, history: list[Transaction], *, tell_of_refunds: bool = False) -> list[Label]:
    """Reports about some of `history`: early, late, withdrawn, repeated, with and without the purchase's own fields.

    A merchant that was accused because of a refund remembers when, so with `tell_of_refunds` its bytes, unlike its
    features, depend on whether the refund came first.
    """
    labels = []
    for transaction in draw(st.lists(st.sampled_from(history), max_size=12)):
        told = (tell_of_refunds or transaction.type == "purchase") and draw(st.booleans())
        labels.append(
            Label(
                transaction_id=transaction.transaction_id,
                is_fraud=draw(st.sampled_from([True, True, False])),
                reported_at_ms=transaction.event_time_ms + draw(label_delays),
                source="chargeback",
                merchant_id=transaction.merchant_id if told else None,
                event_time_ms=transaction.event_time_ms if told else None,
            )
        )
    return sorted(labels, key=lambda label: label.reported_at_ms)


@pytest.mark.parametrize("features", [CORE, HANDBOOK], ids=lambda features: features.name)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_kernel_agrees_with_the_oracle(features: FeatureSet, data: st.DataObject) -> None:
    history = data.draw(histories())
    labels = data.draw(labels_of(history, tell_of_refunds=True))
    observed = list(observe_history(history, features, labels))
    rows = [features_json(features, observation.values) for _, observation in observed]
    assert assert_same_features(oracle_features(history, features.name, labels), rows) == len(history)
    assert [observation.late for _, observation in observed] == is_late(history)
    assert [transaction for transaction, _ in observed] == history


def test_the_kernel_agrees_with_the_oracle_on_a_card_with_more_merchants_than_it_remembers() -> None:
    history = [
        a_transaction(transaction_id=f"t{n}", merchant_id=f"m{n % 200}", event_time_ms=START_MS + n * 400_000)
        for n in range(450)
    ]
    rows = [features_json(CORE, observation.values) for _, observation in observe_history(history, CORE)]
    assert_same_features(oracle_features(history), rows)
    assert {row["first_time_at_merchant"] for row in rows[200:]} == {1.0}
    assert max(row["card_merchants_24h"] or 0 for row in rows) == 129.0


def test_states_of_a_history_are_those_the_stream_would_leave() -> None:
    history = [a_transaction(transaction_id=f"t{n}", event_time_ms=START_MS + n) for n in range(5)]
    refund = a_transaction(card_id="refunds-only", type="refund")
    states = card_states([*history, refund], CORE)
    assert list(states) == ["card-1"]
    assert len(states["card-1"].times) == 5


def value(name: str, *history: Transaction) -> float | None:
    *_, (_, observation) = observe_history(history, CORE)
    return features_json(CORE, observation.values)[name]


def at(seconds: float, **changes: Any) -> Transaction:
    event_time_ms = START_MS + round(seconds * 1000)
    return a_full_transaction(transaction_id=f"t{event_time_ms}", event_time_ms=event_time_ms, **changes)


def test_without_a_past_comparisons_are_null_and_counts_are_one() -> None:
    first = at(0)
    for name in (
        "amount_over_card_mean_30d",
        "amount_over_card_max_30d",
        "seconds_since_last",
        "first_time_at_merchant",
        "distance_from_last_m",
        "speed_from_last_m_s",
    ):
        assert value(name, first) is None, name
    assert value("card_count_1m", first) == 1.0
    assert value("card_merchants_24h", first) == 1.0


def test_a_past_of_free_purchases_has_no_ratio() -> None:
    assert value("amount_over_card_mean_30d", at(0, amount_minor=0), at(1)) is None
    assert value("amount_over_card_max_30d", at(0, amount_minor=0), at(1)) is None
    assert value("amount_over_card_mean_30d", at(0, amount_minor=4), at(1, amount_minor=0)) == 0.0


def test_a_gap_under_a_second_counts_as_one_second() -> None:
    berlin, paris = {"latitude": 52.5, "longitude": 13.4}, {"latitude": 48.9, "longitude": 2.4}
    distance = value("distance_from_last_m", at(0, **berlin), at(0.001, **paris))
    assert distance is not None
    assert value("speed_from_last_m_s", at(0, **berlin), at(0.001, **paris)) == distance
    assert value("speed_from_last_m_s", at(0, **berlin), at(2, **paris)) == distance / 2


def test_the_last_place_is_that_of_the_last_purchase_that_has_one() -> None:
    nowhere = {"latitude": None, "longitude": None}
    assert value("distance_from_last_m", at(0), at(1, **nowhere), at(2)) == 0.0
    assert value("speed_from_last_m_s", at(0), at(1, **nowhere), at(2)) == 0.0
    assert value("distance_from_last_m", at(0, **nowhere), at(2)) is None
    assert value("distance_from_last_m", at(0), at(2, **nowhere)) is None


@pytest.mark.parametrize(
    ("event_time_ms", "night", "weekend"),
    [
        (1_600_473_599_999, 0.0, 0.0),  # Friday 2020-09-18 23:59:59.999
        (1_600_473_600_000, 1.0, 1.0),  # Saturday 00:00
        (1_600_498_799_999, 1.0, 1.0),  # Saturday 06:59:59.999
        (1_600_498_800_000, 0.0, 1.0),  # Saturday 07:00
        (1_600_646_399_999, 0.0, 1.0),  # Sunday 23:59:59.999
        (1_600_646_400_000, 1.0, 0.0),  # Monday 00:00
    ],
)
def test_night_and_weekend_are_utc(event_time_ms: int, night: float, weekend: float) -> None:
    transaction = a_transaction(event_time_ms=event_time_ms)
    assert (value("is_night", transaction), value("is_weekend", transaction)) == (night, weekend)


def test_places_are_rounded_half_to_even_micro_degrees() -> None:
    event = card_event(a_transaction(latitude=0.0000005, longitude=0.0000015))
    assert (event.latitude_e6 - 90_000_001, event.longitude_e6 - 180_000_001) == (0, 2)
    assert card_event(a_transaction(latitude=-90.0, longitude=-180.0)).latitude_e6 == 1
    assert card_event(a_transaction()).latitude_e6 == 0


def test_an_event_without_a_rate_is_the_records_fault() -> None:
    with pytest.raises(MalformedRecord, match="no_rate"):
        card_event(a_transaction(currency="ZWL"))


def test_missing_values_become_none_and_nothing_else_does() -> None:
    values = [math.nan, *range(1, len(CORE.names))]
    row = features_json(CORE, values)
    assert row.pop("amount") is None
    assert list(row.values()) == list(range(1, len(CORE.names)))
    with pytest.raises(ValueError, match="zip"):
        features_json(CORE, values[1:])
