"""What the arrays do not answer goes the scalar way, entity by entity: each reason, its neighbours, and the count."""

from __future__ import annotations

import msgspec
import pytest

from stream_features.card_state import CardLayout
from stream_features.feature_sets import CORE, HANDBOOK, FeatureSet
from stream_features.tiles import HOUR_MS
from stream_features.transaction import Transaction
from stream_features.vectorised import groups
from stream_features.vectorised.backfill import ScalarEntities, backfill
from stream_features.vectorised.columns import history_columns
from tests.unit.vectorised.histories import DAY_MS, START_MS, History, assert_same_bits, scalar_values

SMALL = CardLayout(retention_ms=31 * DAY_MS, exact_entries=6, merchants=3, countries=2)


def core_with(layout: CardLayout) -> FeatureSet:
    features = FeatureSet(CORE.name, CORE.version, CORE.features, CORE.merchant_grid)
    object.__setattr__(features, "card_layout", layout)
    return features


def a_card(card_id: str, count: int, *, gap_ms: int = HOUR_MS, merchants: int = 1, countries: int = 1) -> History:
    return [
        (
            Transaction(
                transaction_id=f"{card_id}-{number}",
                event_time_ms=START_MS + number * gap_ms,
                card_id=card_id,
                merchant_id=f"{card_id} shop {number % merchants}",
                amount_minor=100 + number,
                currency="USD",
                country=("DE", "FR", "US", "JP")[number % countries],
            ),
            number % 3 == 0,
        )
        for number in range(count)
    ]


def backfilled(history: History, features: FeatureSet) -> tuple[list[str], list[str]]:
    """Cards and merchants that went the scalar way, after the values were held against the scalar path."""
    columns, scalar = history_columns(history), ScalarEntities()
    values = backfill(columns, features, label_delay_ms=5 * DAY_MS, scalar=scalar)
    assert_same_bits(scalar_values(history, features), values, features)
    return [columns.card_ids[card] for card in scalar.cards], [columns.merchant_ids[m] for m in scalar.merchants]


NEIGHBOUR = a_card("neighbour", 5)


@pytest.mark.parametrize(
    ("history", "scalar"),
    [
        (a_card("full", 6), []),
        (a_card("over", 7), ["over"]),
        (a_card("over-but-forgotten", 20, gap_ms=7 * DAY_MS), []),
        (a_card("merchants", 6, merchants=3), []),
        (a_card("merchants", 6, merchants=4), ["merchants"]),
        (a_card("countries", 6, countries=2), []),
        (a_card("countries", 6, countries=3), ["countries"]),
    ],
)
def test_a_card_beyond_a_bound_of_its_state_goes_the_scalar_way_alone(history, scalar):
    assert backfilled(NEIGHBOUR + history, core_with(SMALL)) == (scalar, [])


def test_the_real_bound_of_exact_entries():
    for count, scalar in ((1024, []), (1025, ["busy"])):
        assert backfilled(a_card("busy", count, gap_ms=60_000), HANDBOOK) == (scalar, [])


def test_maps_that_no_feature_reads_are_no_reason():
    assert backfilled(a_card("shopper", 200, merchants=150), HANDBOOK) == ([], [])
    assert backfilled(a_card("shopper", 200, merchants=150), CORE) == (["shopper"], [])


def test_a_card_in_another_order_than_time_goes_the_scalar_way_and_so_does_its_merchant():
    late = a_card("late", 4)
    late[2], late[3] = late[3], late[2]
    assert backfilled(NEIGHBOUR + late, CORE) == (["late"], ["late shop 0"])


def test_a_merchant_alone_may_be_out_of_order():
    first, second = a_card("a", 2), a_card("b", 2)
    shared = [
        (msgspec.structs.replace(transaction, merchant_id="shared"), is_fraud)
        for transaction, is_fraud in (first[0], first[1], second[0], second[1])
    ]
    assert backfilled(shared, CORE) == ([], ["shared"])


def test_one_id_twice_at_one_time_is_asked_as_if_it_were_not_in_its_own_past():
    history = a_card("twin", 3)
    assert backfilled([*history, history[-1]], CORE)[0] == ["twin"]
    tied = (msgspec.structs.replace(history[-1][0], transaction_id="other"), False)
    assert backfilled([*history, tied], CORE)[0] == []


def test_so_late_that_nothing_can_be_asked_means_no_merchant_features_either():
    history = a_card("sleeper", 3)
    history.append(
        (msgspec.structs.replace(history[0][0], transaction_id="x", event_time_ms=START_MS + 90 * DAY_MS), False)
    )
    history.append((msgspec.structs.replace(history[0][0], transaction_id="y", event_time_ms=START_MS + DAY_MS), False))
    for features in (CORE, HANDBOOK):
        assert backfilled(history, features)[0] == ["sleeper"]


@pytest.mark.parametrize("block_rows", [1, 2, 7])
def test_blocks_of_any_size_give_the_same_bits(monkeypatch, block_rows):
    monkeypatch.setattr(groups, "BLOCK_ROWS", block_rows)
    history = sorted(a_card("a", 9) + a_card("b", 4, merchants=2) + NEIGHBOUR, key=lambda row: row[0].event_time_ms)
    assert backfilled(history, CORE) == ([], [])


def test_times_from_one_end_of_the_calendar_to_the_other():
    ends = [
        (msgspec.structs.replace(t, event_time_ms=time_ms), f)
        for (t, f), time_ms in zip(a_card("a", 2) + a_card("b", 2), [0, 253_402_300_799_999] * 2, strict=True)
    ]
    many = [row for number in range(40) for row in a_card(f"c{number}", 2)]
    history = sorted(many + ends, key=lambda row: row[0].event_time_ms)
    assert backfilled(history, CORE) == ([], [])
