"""The feature table: its order, its hashes, and that the kernel computes all of it."""

from __future__ import annotations

import dataclasses

import pytest

from stream_features.errors import ContractMismatch, UsageError
from stream_features.feature_definition import SECONDS
from stream_features.feature_plan import feature_plan
from stream_features.feature_sets import CORE, HANDBOOK, FeatureSet, feature_set

WINDOWS = ("1m", "10m", "1h", "24h", "7d", "30d")


def changed(index: int, **changes: object) -> FeatureSet:
    features = list(CORE.features)
    features[index] = dataclasses.replace(features[index], **changes)  # type: ignore[arg-type]
    return FeatureSet(CORE.name, CORE.version, tuple(features))


def test_core_has_its_columns_in_order() -> None:
    assert CORE.names == (
        "amount",
        "is_night",
        "is_weekend",
        *(f"card_count_{window}" for window in WINDOWS),
        *(f"card_sum_{window}" for window in WINDOWS),
        "amount_over_card_mean_30d",
        "amount_over_card_max_30d",
        "seconds_since_last",
        "card_merchants_24h",
        "card_countries_24h",
        "first_time_at_merchant",
        "distance_from_last_m",
        "speed_from_last_m_s",
        "amount_over_card_mean_1d",
        "amount_over_card_mean_7d",
        *(f"merchant_count_{window}" for window in ("10m", "1h", "24h")),
        *(f"merchant_count_{window}_delayed" for window in ("1d", "7d", "30d")),
        *(f"merchant_risk_{window}" for window in ("1d", "7d", "30d")),
    )


def test_handbook_has_the_published_columns_in_their_order() -> None:
    assert HANDBOOK.names == (
        "TX_AMOUNT",
        "TX_DURING_WEEKEND",
        "TX_DURING_NIGHT",
        "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_7DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_30DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
        "TERMINAL_ID_NB_TX_1DAY_WINDOW",
        "TERMINAL_ID_RISK_1DAY_WINDOW",
        "TERMINAL_ID_NB_TX_7DAY_WINDOW",
        "TERMINAL_ID_RISK_7DAY_WINDOW",
        "TERMINAL_ID_NB_TX_30DAY_WINDOW",
        "TERMINAL_ID_RISK_30DAY_WINDOW",
    )


def test_the_sets_are_those_models_were_trained_on() -> None:
    """Change the definitions and these ids together, knowingly: models, stored decisions and states carry them."""
    ids = [(f.feature_set_id, f.card_layout_id, f.merchant_layout_id) for f in (CORE, HANDBOOK)]
    assert ids == [
        ("core-2-c1729b80de1b", "card-1-72a1febd0a9c", "merchant-1-70f68c686003"),
        ("handbook-1-a84a472433a1", "card-1-72a1febd0a9c", "merchant-1-98c45176dd46"),
    ]


@pytest.mark.parametrize("change", [{"window_ms": 61_000}, {"name": "x"}, {"unit": "x"}, {"revision": 2}])
def test_a_changed_definition_changes_the_hashes(change: dict[str, object]) -> None:
    other = changed(3, **change)
    assert other.feature_set_id != CORE.feature_set_id
    assert [a == b for a, b in zip(other.definitions, CORE.definitions, strict=True)].count(False) == 1


def test_order_and_version_are_part_of_the_set_but_prose_is_not() -> None:
    assert changed(3, meaning="other words").feature_set_id == CORE.feature_set_id
    assert FeatureSet("core", 3, CORE.features).feature_set_id != CORE.feature_set_id
    assert FeatureSet("core", 2, CORE.features[::-1]).feature_set_id != CORE.feature_set_id
    assert FeatureSet("core", 2, CORE.features).feature_set_id == CORE.feature_set_id


def test_the_tiles_of_merchants_are_part_of_the_set() -> None:
    seconds = FeatureSet("core", 2, CORE.features, SECONDS)
    assert seconds.merchant_layout_id != CORE.merchant_layout_id
    assert seconds.feature_set_id != CORE.feature_set_id
    assert seconds.card_layout_id == CORE.card_layout_id


def test_definitions_are_distinct_and_16_digits() -> None:
    both = [*CORE.definitions, *HANDBOOK.definitions]
    assert len(set(both)) == len(CORE.names) + len(HANDBOOK.names)
    assert {len(definition) for definition in both} == {16}


def test_retention_is_the_longest_reach_and_a_day() -> None:
    for features in (CORE, HANDBOOK):
        assert features.card_layout.retention_ms == 31 * 86_400_000
        assert features.merchant_layout is not None
        assert features.merchant_layout.retention_ms == 38 * 86_400_000


def test_a_set_knows_how_soon_it_looks_at_merchants() -> None:
    assert (CORE.smallest_merchant_delay_ms, HANDBOOK.smallest_merchant_delay_ms) == (120_000, 7 * 86_400_000)
    cards_only = FeatureSet("cards", 1, tuple(f for f in CORE.features if f.entity != "merchant"))
    assert (cards_only.merchant_layout, cards_only.merchant_layout_id) == (None, None)
    assert cards_only.smallest_merchant_delay_ms is None
    with pytest.raises(ValueError, match="before their purchases"):
        changed(CORE.names.index("merchant_count_1h"), delay_ms=119_999)


def test_no_merchant_window_ends_where_tiles_become_coarse() -> None:
    """A tile may become an hour between a purchase and the next: no edge may lie there, nor within most of a day."""
    for feature in CORE.features:
        if feature.entity == "merchant":
            for edge_ms in (feature.delay_ms, feature.delay_ms + (feature.window_ms or 0)):
                assert abs(edge_ms - 48 * 3_600_000) > 23 * 3_600_000, feature.name


def test_a_name_stands_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        changed(3, name="amount")


@pytest.mark.parametrize(
    ("index", "change"),
    [
        (0, {"aggregation": "median"}),
        (3, {"delay_ms": 1}),
        (18, {"window_ms": None}),
        (23, {"window_ms": None}),
        (25, {"aggregation": "sum"}),
        (31, {"entity": "card"}),
    ],
)
def test_what_the_kernel_does_not_compute_is_refused(index: int, change: dict[str, object]) -> None:
    with pytest.raises(ContractMismatch):
        feature_plan(changed(index, **change))


def test_an_unknown_set_is_a_usage_error_that_names_the_known_ones() -> None:
    assert feature_set("core") is CORE
    assert feature_set("handbook") is HANDBOOK
    with pytest.raises(UsageError, match="core, handbook"):
        feature_set("none")
