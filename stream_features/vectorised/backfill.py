"""Every feature of a whole history, as the scalar path would have computed them transaction by transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_features.card_state import CardState
from stream_features.errors import ContractMismatch
from stream_features.feature_sets import DAY_MS, Feature, FeatureSet
from stream_features.kernel import NIGHT_ENDS_MS, observe
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantLayout, MerchantState
from stream_features.vectorised import cards, merchants
from stream_features.vectorised.cards import CardBlock
from stream_features.vectorised.columns import HistoryColumns
from stream_features.vectorised.groups import blocks, by_entity, starts_of
from stream_features.vectorised.merchants import MerchantBlock

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(slots=True)
class ScalarEntities:
    """Which entities the scalar path had to answer, because the arrays would not have given its bits.

    Attributes:
        cards: places in `HistoryColumns.card_ids`.
        merchants: places in `HistoryColumns.merchant_ids`.
    """

    cards: list[int] = field(default_factory=list)
    merchants: list[int] = field(default_factory=list)


def backfill(
    columns: HistoryColumns,
    features: FeatureSet,
    *,
    label_delay_ms: int,
    scalar: ScalarEntities | None = None,
) -> Floats:
    """The features of every transaction of a history.

    Args:
        columns: valid transactions in order of arrival, each id once.
        features: the feature set.
        label_delay_ms: how long after its event each label is reported.
        scalar: filled with the entities that went the scalar way.

    Returns:
        Shape (rows, features), float64, NaN where there is no value; bit for bit what `observe_history` gives.

    Raises:
        MalformedRecord: `currency`/`no_rate`.
        ContractMismatch: the set asks for a feature that is not computed here.
    """
    scalar = scalar if scalar is not None else ScalarEntities()
    values = np.empty((len(columns), len(features.names)), dtype=np.float64)
    if not len(columns):
        return values
    amounts = columns.base_amounts()
    _transactions(columns, features, amounts, values)
    _merchants(columns, features, amounts, values, label_delay_ms, scalar)
    _cards(columns, features, amounts, values, scalar)
    return values


def _transactions(columns: HistoryColumns, features: FeatureSet, amounts: Integers, values: Floats) -> None:
    """The features that read no state."""
    for place, feature in _of_entity(features, "transaction"):
        if feature.aggregation == "amount":
            values[:, place] = amounts
        elif feature.aggregation == "amount_major":
            values[:, place] = amounts / 100.0
        elif feature.aggregation == "is_night":
            values[:, place] = columns.event_times_ms % DAY_MS < NIGHT_ENDS_MS
        elif feature.aggregation == "is_weekend":
            values[:, place] = (columns.event_times_ms // DAY_MS + 3) % 7 >= 5
        else:
            raise _unknown(feature)


def _merchants(
    columns: HistoryColumns,
    features: FeatureSet,
    amounts: Integers,
    values: Floats,
    label_delay_ms: int,
    scalar: ScalarEntities,
) -> None:
    asked, layout = _of_entity(features, "merchant"), features.merchant_layout
    if layout is None:
        return
    _require_known(asked, merchants.AGGREGATIONS)
    frauds = columns.frauds == 1
    # A refund's label counts from its report until the refund arrives: never, where rows stand in order.
    reported_frauds = frauds & columns.is_purchase
    for rows in _blocks(columns, columns.merchants):
        block = MerchantBlock(columns, rows, layout, reported_frauds, label_delay_ms)
        _fill(values, rows, asked, block.answer)
        for entity in np.flatnonzero(block.unordered()).tolist():
            of_merchant = rows[block.entity == entity]
            scalar.merchants.append(int(columns.merchants[of_merchant[0]]))
            _one_merchant(columns, features, layout, amounts, of_merchant, values, label_delay_ms)


def _one_merchant(
    columns: HistoryColumns,
    features: FeatureSet,
    layout: MerchantLayout,
    amounts: Integers,
    rows: Integers,
    values: Floats,
    label_delay_ms: int,
) -> None:
    """The merchant features of one merchant's rows by the scalar path, in order of arrival."""
    places = [place for place, _ in _of_entity(features, "merchant")]
    merchant = MerchantState.empty()

    def report(time_ms: int, delta: int) -> None:
        merchant.add_fraud(layout, time_ms, time_ms + label_delay_ms + LABEL_EFFECT_MS, delta)

    for row in rows[columns.frauds[rows] == 1].tolist():
        # an entry counts from the moment it takes effect, however early the state takes it in
        report(int(columns.event_times_ms[row]), 1)
    for row in rows.tolist():
        event = columns.card_event(row, int(amounts[row]))
        observed = observe(features, CardState.empty(), event, merchant).values
        values[row, places] = [observed[place] for place in places]
        if event.is_purchase:
            merchant.add(layout, event.event_time_ms, event.amount_base)
        elif columns.frauds[row] == 1:
            report(event.event_time_ms, -1)


def _cards(
    columns: HistoryColumns, features: FeatureSet, amounts: Integers, values: Floats, scalar: ScalarEntities
) -> None:
    asked = _of_entity(features, "card")
    if not asked:
        return
    _require_known(asked, cards.AGGREGATIONS)
    structures = {feature.structure for _, feature in asked}
    for rows in _blocks(columns, columns.cards):
        block = CardBlock(columns, rows, amounts[rows], features.card_layout)
        _fill(values, rows, asked, block.answer)
        beyond = block.beyond_the_bounds(
            merchants="card_merchants" in structures, countries="card_countries" in structures
        )
        for entity in np.flatnonzero(beyond).tolist():
            of_card = rows[block.entity == entity]
            scalar.cards.append(int(columns.cards[of_card[0]]))
            _one_card(columns, features, amounts, of_card, values)


def _one_card(columns: HistoryColumns, features: FeatureSet, amounts: Integers, rows: Integers, values: Floats) -> None:
    """The rows of one card by the scalar path, in order of arrival; its merchants' features stay as they are."""
    card = CardState.empty()
    of_merchants = [place for place, _ in _of_entity(features, "merchant")]
    for row in rows.tolist():
        observation = observe(features, card, columns.card_event(row, int(amounts[row])))
        known = values[row, of_merchants]
        values[row] = observation.values
        if not observation.stateless:
            values[row, of_merchants] = known


def _blocks(columns: HistoryColumns, codes: Integers) -> Iterator[Integers]:
    """Rows of whole entities, sorted by entity, then as they arrived."""
    order = by_entity(codes)
    times = columns.event_times_ms
    # what is searched lies up to a tile outside the event times
    span_ms = int(times.max()) - int(times.min()) + DAY_MS
    for begin, end in blocks(starts_of(codes[order]), len(codes), span_ms):
        yield order[begin:end]


def _fill(
    values: Floats, rows: Integers, asked: list[tuple[int, Feature]], answer: Callable[[Feature], Floats]
) -> None:
    """Write the answers about `rows`; whole rows at a time, because that is what the memory likes."""
    answers = np.empty((len(rows), len(asked)), dtype=np.float64)
    for column, (_, feature) in enumerate(asked):
        answers[:, column] = answer(feature)
    first, last = asked[0][0], asked[-1][0]
    if last - first == len(asked) - 1:
        values[rows, first : last + 1] = answers
    else:
        values[rows[:, np.newaxis], [place for place, _ in asked]] = answers


def _require_known(asked: list[tuple[int, Feature]], aggregations: Collection[str]) -> None:
    for _, feature in asked:
        if feature.aggregation not in aggregations:
            raise _unknown(feature)


def _of_entity(features: FeatureSet, entity: str) -> list[tuple[int, Feature]]:
    """Columns and features that read `entity`."""
    return [(place, feature) for place, feature in enumerate(features.features) if feature.entity == entity]


def _unknown(feature: Feature) -> ContractMismatch:
    return ContractMismatch(f"{feature.name}: the vectorised path does not compute this feature")
