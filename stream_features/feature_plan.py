"""A feature set compiled for the kernel: which windows to sum, and where each answer goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import nan
from operator import itemgetter
from typing import Final, NamedTuple

from stream_features.errors import ContractMismatch
from stream_features.feature_definition import RISKS, Entity, Feature, FeatureSet
from stream_features.merchant_state import MerchantLayout


class Plan(NamedTuple):
    """A feature set, compiled.

    The kernel computes all answers in one order: those of the transaction; the count and then the sum of every window;
    means; ratios to means; the ratio to the maximum; the answers of the card's maps and last entries; the count of
    every merchant window; risks.
    """

    windows: tuple[int, ...]  # of cards, ascending
    means: tuple[int, ...]  # which of the windows have a mean
    mean_ratios: tuple[int, ...]  # which of the windows compare with the card's own mean
    largest: int  # which of the windows the card's own maximum is taken over; -1 for none
    reads_memory: bool  # whether the card's maps and last entries are asked
    merchants_ms: int
    countries_ms: int
    merchant_layout: MerchantLayout | None
    merchant_windows: tuple[tuple[int, int], ...]  # (delay, delay + length)
    risks: tuple[tuple[int, float], ...]  # which of the merchant windows, and the risk without purchases
    no_merchant: tuple[float, ...]  # the answers about a merchant never seen
    no_state: tuple[float, ...]  # NaN for every answer that reads state
    pick: Callable[[Sequence[float]], tuple[float, ...]]  # all answers -> the set's columns
    merchant_columns: tuple[tuple[int, int], ...]  # (column of the set, which of the answers about a merchant)


Answer = tuple[Entity, str, int, int | None]  # entity, aggregation, delay, window

TRANSACTION_ANSWERS: Final = ("amount", "amount_major", "is_night", "is_weekend")
MEMORY_ANSWERS: Final = (
    "seconds_since_last",
    "distinct_merchants",
    "distinct_countries",
    "first_time_at_merchant",
    "distance_from_last",
    "speed_from_last",
)
_WINDOWED: Final = ("count", "sum", "mean_major", "ratio_to_mean", "ratio_to_max")


@cache
def feature_plan(features: FeatureSet) -> Plan:
    """Compile `features`; raises ContractMismatch when the table asks for what the kernel does not compute."""
    asked = [_answer(feature) for feature in features.features]
    windows = _windows(asked, "card", *_WINDOWED)
    means = _windows(asked, "card", "mean_major")
    mean_ratios = _windows(asked, "card", "ratio_to_mean")
    largest = _windows(asked, "card", "ratio_to_max")
    if len(largest) > 1:
        raise ContractMismatch(f"{features.name}: the kernel takes the maximum over one window only")
    merchant_windows = tuple(
        sorted({(delay, window) for entity, _, delay, window in asked if entity == "merchant" and window})
    )
    risks = sorted({(name, delay, window) for entity, name, delay, window in asked if name in RISKS and window})
    reads_memory = any(entity == "card" and name in MEMORY_ANSWERS for entity, name, _, _ in asked)

    order: list[Answer] = [("transaction", name, 0, None) for name in TRANSACTION_ANSWERS]
    order += [("card", name, 0, window) for name in ("count", "sum") for window in windows]
    order += [("card", "mean_major", 0, window) for window in means]
    order += [("card", "ratio_to_mean", 0, window) for window in mean_ratios]
    order += [("card", "ratio_to_max", 0, window) for window in largest]
    distinct_windows = [_sole_window(features, name) for name in ("distinct_merchants", "distinct_countries")]
    if reads_memory:
        memory_windows = dict(zip(("distinct_merchants", "distinct_countries"), distinct_windows, strict=True))
        order += [("card", name, 0, memory_windows.get(name)) for name in MEMORY_ANSWERS]
    of_merchants: list[Answer] = [("merchant", "count", delay, window) for delay, window in merchant_windows]
    of_merchants += [("merchant", name, delay, window) for name, delay, window in risks]
    empty_risks = [0.0 if name == "risk_or_zero" else nan for name, _, _ in risks]
    first_merchant = len(order)
    order += of_merchants

    for feature, answer in zip(features.features, asked, strict=True):
        if answer not in order:
            raise ContractMismatch(f"{feature.name}: the kernel does not compute this feature")
    slots = [order.index(answer) for answer in asked]
    return Plan(
        windows,
        tuple(windows.index(window) for window in means),
        tuple(windows.index(window) for window in mean_ratios),
        windows.index(largest[0]) if largest else -1,
        reads_memory,
        distinct_windows[0] or 0,
        distinct_windows[1] or 0,
        features.merchant_layout,
        tuple((delay, delay + window) for delay, window in merchant_windows),
        tuple(
            (merchant_windows.index((delay, window)), empty)
            for (_, delay, window), empty in zip(risks, empty_risks, strict=True)
        ),
        (*[0.0] * len(merchant_windows), *empty_risks),
        (nan,) * (len(order) - len(TRANSACTION_ANSWERS)),
        _picker(slots, len(order)),
        tuple((column, slot - first_merchant) for column, slot in enumerate(slots) if slot >= first_merchant),
    )


def _answer(feature: Feature) -> Answer:
    return feature.entity, feature.aggregation, feature.delay_ms, feature.window_ms


def _windows(asked: list[Answer], entity: str, *aggregations: str) -> tuple[int, ...]:
    """The windows of these aggregations, ascending."""
    return tuple(sorted({window for of, name, _, window in asked if of == entity and name in aggregations and window}))


def _sole_window(features: FeatureSet, aggregation: str) -> int | None:
    """The window of `aggregation`; None where the set does not ask for it."""
    found = {feature.window_ms for feature in features.features if feature.aggregation == aggregation}
    if len(found) > 1 or None in found:
        raise ContractMismatch(f"{features.name}: the kernel needs exactly one window for {aggregation}")
    return found.pop() if found else None


def _picker(slots: list[int], answers: int) -> Callable[[Sequence[float]], tuple[float, ...]]:
    if slots == list(range(answers)):
        return tuple
    if len(slots) == 1:
        return lambda values: (values[slots[0]],)
    return itemgetter(*slots)
