"""The feature sets: tables of features whose order is column order."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final, Literal

from stream_features.errors import UsageError
from stream_features.feature_definition import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    SECONDS,
    Feature,
    FeatureSet,
)

__all__ = ["CORE", "DAY_MS", "FEATURE_SETS", "HANDBOOK", "HOUR_MS", "MINUTE_MS", "Feature", "FeatureSet", "feature_set"]

_CORE_WINDOWS: Final = (
    ("1m", "minute", MINUTE_MS, MINUTE_MS),
    ("10m", "10 minutes", 10 * MINUTE_MS, MINUTE_MS),
    ("1h", "hour", HOUR_MS, MINUTE_MS),
    ("24h", "24 hours", 24 * HOUR_MS, HOUR_MS),
    ("7d", "7 days", 7 * DAY_MS, HOUR_MS),
    ("30d", "30 days", 30 * DAY_MS, HOUR_MS),
)


def _velocities(aggregation: str, unit: str, what: str) -> Iterable[Feature]:
    for suffix, words, window_ms, resolution_ms in _CORE_WINDOWS:
        yield Feature(
            name=f"card_{aggregation}_{suffix}",
            unit=unit,
            meaning=f"{what} on the card in the last {words}, this one included if it is a purchase.",
            entity="card",
            structure="card_entries",
            aggregation=aggregation,
            window_ms=window_ms,
            resolution_ms=resolution_ms,
            includes_current=True,
        )


def _mean_ratio(suffix: str, words: str, window_ms: int) -> Feature:
    return Feature(
        name=f"amount_over_card_mean_{suffix}",
        unit="ratio",
        meaning=f"Amount over the mean of the card's earlier purchases in {words}; null when they sum to nothing.",
        entity="card",
        structure="card_entries",
        aggregation="ratio_to_mean",
        window_ms=window_ms,
        resolution_ms=HOUR_MS,
    )


_DAYS: Final = (("1", "24 hours", DAY_MS), ("7", "7 days", 7 * DAY_MS), ("30", "30 days", 30 * DAY_MS))


def _merchant_count(name: str, words: str, window_ms: int, delay_ms: int, resolution_ms: int) -> Feature:
    behind = "7 days" if delay_ms == 7 * DAY_MS else "2 minutes"
    return Feature(
        name=name,
        unit="purchases",
        meaning=f"Purchases at the merchant in {words} up to {behind} ago.",
        entity="merchant",
        structure="merchant_tiles",
        aggregation="count",
        window_ms=window_ms,
        delay_ms=delay_ms,
        resolution_ms=resolution_ms,
    )


def _merchant_risk(
    name: str, words: str, window_ms: int, resolution_ms: int, *, empty: Literal["null", "0"]
) -> Feature:
    return Feature(
        name=name,
        unit="share",
        meaning=f"Share of known frauds among the purchases at the merchant in {words} up to 7 days ago; {empty} "
        "without purchases.",
        entity="merchant",
        structure="merchant_frauds",
        aggregation="risk" if empty == "null" else "risk_or_zero",
        window_ms=window_ms,
        delay_ms=7 * DAY_MS,
        resolution_ms=resolution_ms,
    )


CORE: Final = FeatureSet(
    "core",
    2,
    (
        Feature(
            name="amount",
            unit="US cents",
            meaning="The amount, converted by the rate of the transaction's day.",
            entity="transaction",
            structure="transaction",
            aggregation="amount",
            includes_current=True,
        ),
        Feature(
            name="is_night",
            unit="0 or 1",
            meaning="1 from 00:00 to 06:59 UTC.",
            entity="transaction",
            structure="transaction",
            aggregation="is_night",
            includes_current=True,
        ),
        Feature(
            name="is_weekend",
            unit="0 or 1",
            meaning="1 on Saturday and Sunday, UTC.",
            entity="transaction",
            structure="transaction",
            aggregation="is_weekend",
            includes_current=True,
        ),
        *_velocities("count", "purchases", "Purchases"),
        *_velocities("sum", "US cents", "Amount of the purchases"),
        _mean_ratio("30d", "30 days", 30 * DAY_MS),
        Feature(
            name="amount_over_card_max_30d",
            unit="ratio",
            meaning="Amount over the largest of the card's earlier purchases in 30 days; null when that is zero.",
            entity="card",
            structure="card_entries",
            aggregation="ratio_to_max",
            window_ms=30 * DAY_MS,
            resolution_ms=HOUR_MS,
        ),
        Feature(
            name="seconds_since_last",
            unit="seconds",
            meaning="Time since the card's last earlier purchase; null without one.",
            entity="card",
            structure="card_entries",
            aggregation="seconds_since_last",
        ),
        Feature(
            name="card_merchants_24h",
            unit="merchants",
            meaning="Different merchants on the card in the last 24 hours, a purchase's own included.",
            entity="card",
            structure="card_merchants",
            aggregation="distinct_merchants",
            window_ms=24 * HOUR_MS,
            includes_current=True,
        ),
        Feature(
            name="card_countries_24h",
            unit="countries",
            meaning="Different known countries on the card in the last 24 hours, a purchase's own included.",
            entity="card",
            structure="card_countries",
            aggregation="distinct_countries",
            window_ms=24 * HOUR_MS,
            includes_current=True,
        ),
        Feature(
            name="first_time_at_merchant",
            unit="0 or 1",
            meaning="1 when no earlier purchase of the card was at this merchant; null without an earlier purchase.",
            entity="card",
            structure="card_merchants",
            aggregation="first_time_at_merchant",
        ),
        Feature(
            name="distance_from_last_m",
            unit="metres",
            meaning="Distance from the last earlier purchase that has a place; null when either place is unknown.",
            entity="card",
            structure="card_places",
            aggregation="distance_from_last",
        ),
        Feature(
            name="speed_from_last_m_s",
            unit="metres per second",
            meaning="That distance over the time between (at least one second).",
            entity="card",
            structure="card_places",
            aggregation="speed_from_last",
        ),
        _mean_ratio("1d", "24 hours", DAY_MS),
        _mean_ratio("7d", "7 days", 7 * DAY_MS),
        _merchant_count("merchant_count_10m", "10 minutes", 10 * MINUTE_MS, 2 * MINUTE_MS, MINUTE_MS),
        _merchant_count("merchant_count_1h", "an hour", HOUR_MS, 2 * MINUTE_MS, MINUTE_MS),
        _merchant_count("merchant_count_24h", "24 hours", DAY_MS, 2 * MINUTE_MS, MINUTE_MS),
        *(
            _merchant_count(f"merchant_count_{days}d_delayed", words, window_ms, 7 * DAY_MS, HOUR_MS)
            for days, words, window_ms in _DAYS
        ),
        *(
            _merchant_risk(f"merchant_risk_{days}d", words, window_ms, HOUR_MS, empty="null")
            for days, words, window_ms in _DAYS
        ),
    ),
)


def _handbook_card(days: str, words: str, window_ms: int) -> Iterable[Feature]:
    yield Feature(
        name=f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW",
        unit="purchases",
        meaning=f"Purchases on the card in the last {words}, this one included if it is a purchase.",
        entity="card",
        structure="card_entries",
        aggregation="count",
        window_ms=window_ms,
        resolution_ms=HOUR_MS,
        includes_current=True,
    )
    yield Feature(
        name=f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW",
        unit="US dollars",
        meaning=f"Mean amount of the purchases on the card in the last {words}, this one included if it is a purchase; "
        "0 without purchases.",
        entity="card",
        structure="card_entries",
        aggregation="mean_major",
        window_ms=window_ms,
        resolution_ms=HOUR_MS,
        includes_current=True,
    )


def _handbook_merchant(days: str, words: str, window_ms: int) -> Iterable[Feature]:
    yield _merchant_count(f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW", words, window_ms, 7 * DAY_MS, 1_000)
    yield _merchant_risk(f"TERMINAL_ID_RISK_{days}DAY_WINDOW", words, window_ms, 1_000, empty="0")


HANDBOOK: Final = FeatureSet(
    "handbook",
    1,
    (
        Feature(
            name="TX_AMOUNT",
            unit="US dollars",
            meaning="The amount, converted by the rate of the transaction's day.",
            entity="transaction",
            structure="transaction",
            aggregation="amount_major",
            includes_current=True,
        ),
        Feature(
            name="TX_DURING_WEEKEND",
            unit="0 or 1",
            meaning="1 on Saturday and Sunday, UTC.",
            entity="transaction",
            structure="transaction",
            aggregation="is_weekend",
            includes_current=True,
        ),
        Feature(
            name="TX_DURING_NIGHT",
            unit="0 or 1",
            meaning="1 from 00:00 to 06:59 UTC.",
            entity="transaction",
            structure="transaction",
            aggregation="is_night",
            includes_current=True,
        ),
        *(feature for days in _DAYS for feature in _handbook_card(*days)),
        *(feature for days in _DAYS for feature in _handbook_merchant(*days)),
    ),
    SECONDS,
)

FEATURE_SETS: Final = MappingProxyType({CORE.name: CORE, HANDBOOK.name: HANDBOOK})


def feature_set(name: str) -> FeatureSet:
    """The feature set called `name`.

    Raises:
        UsageError: there is none.
    """
    try:
        return FEATURE_SETS[name]
    except KeyError:
        raise UsageError(f"no feature set {name!r}; there are: {', '.join(FEATURE_SETS)}") from None
