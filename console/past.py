"""What a history makes of every card and merchant as of T: the states the stream would have, had it seen all of it.

A state is a function of the set of its purchases, and what is older than retention leaves none but the mark that there
was something. So only the rows that can still be seen are taken in, entity by entity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from console.history_file import read_history
from console.provenance import PastPurchase
from producers.files import read_transactions
from producers.mappings import load_mapping
from stream_features.card_state import CardState
from stream_features.errors import MalformedRecord
from stream_features.feature_sets import FeatureSet
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantState
from stream_features.vectorised.columns import HistoryColumns, country_letters, history_columns

_FRAUD = 1


class ReportedFraud(NamedTuple):
    """A fraud that was reported before T."""

    transaction_id: str
    merchant_id: str
    event_time_ms: int
    reported_at_ms: int


@dataclass(frozen=True)
class Past:
    """A history as of T.

    Attributes:
        columns: the history; rows at or after T may be among them.
        features: the feature set whose states are made.
        until_ms: T, epoch ms.
        label_delay_ms: from a transaction to its label.
    """

    columns: HistoryColumns
    features: FeatureSet
    until_ms: int
    label_delay_ms: int

    @property
    def transactions(self) -> int:
        """How many transactions lie before T."""
        return int(np.count_nonzero(self.columns.event_times_ms < self.until_ms))

    def card_states(self, only: str | None = None) -> Iterator[tuple[str, CardState]]:
        """Every card that has purchases before T, by id, or `only` that one.

        Raises:
            MalformedRecord: `currency`/`no_rate`.
        """
        columns, layout = self.columns, self.features.card_layout
        amounts = columns.base_amounts()
        for card, rows in _by_entity(columns.cards, _of(only, columns.card_ids, columns.cards, self._purchases)):
            times = columns.event_times_ms[rows]
            state = CardState.empty()
            first = int(np.searchsorted(times, layout.cut_ms(int(times[-1]))))
            for row in rows[first:].tolist():
                state.add(layout, columns.card_event(row, int(amounts[row])))
            yield columns.card_ids[card], state

    def merchant_states(self, only: str | None = None) -> Iterator[tuple[str, MerchantState]]:
        """Every merchant that has purchases or reported frauds before T, or `only` that one; as `card_states`."""
        layout = self.features.merchant_layout
        if layout is None:
            return
        columns = self.columns
        amounts = columns.base_amounts()
        frauds: dict[str, list[ReportedFraud]] = {}
        for fraud in self.reported_frauds():
            if only is not None and fraud.merchant_id != only:
                continue
            frauds.setdefault(fraud.merchant_id, []).append(fraud)

        def with_frauds(merchant_id: str, state: MerchantState) -> tuple[str, MerchantState]:
            for fraud in frauds.pop(merchant_id, ()):
                state.add_fraud(layout, fraud.event_time_ms, fraud.reported_at_ms + LABEL_EFFECT_MS, 1)
            return merchant_id, state

        of_merchants = _of(only, columns.merchant_ids, columns.merchants, self._purchases)
        for merchant, rows in _by_entity(columns.merchants, of_merchants):
            times = columns.event_times_ms[rows]
            state = MerchantState.empty()
            first = int(np.searchsorted(times, layout.cut_ms(int(times[-1])), side="right"))
            for time_ms, amount in zip(times[first:].tolist(), amounts[rows[first:]].tolist(), strict=True):
                state.add(layout, time_ms, amount)
            if first:  # forgotten, but the state remembers that there was something
                state.add(layout, int(times[0]), int(amounts[rows[0]]))
            yield with_frauds(columns.merchant_ids[merchant], state)
        for merchant_id in list(frauds):
            yield with_frauds(merchant_id, MerchantState.empty())

    def reported_frauds(self) -> list[ReportedFraud]:
        """Every purchase that was reported as fraud before T, by event time."""
        columns = self.columns
        reported = columns.event_times_ms + self.label_delay_ms
        rows = self._purchases
        rows = rows[(columns.frauds[rows] == _FRAUD) & (reported[rows] < self.until_ms)]
        return [
            ReportedFraud(
                columns.transaction_ids[row],
                columns.merchant_ids[int(columns.merchants[row])],
                int(columns.event_times_ms[row]),
                int(reported[row]),
            )
            for row in rows.tolist()
        ]

    def purchases(self, *, card_id: str | None = None, merchant_id: str | None = None) -> list[PastPurchase]:
        """The purchases of a card, of a merchant or of both together before T, as `_purchases` orders them."""
        columns = self.columns
        rows = _of(card_id, columns.card_ids, columns.cards, self._purchases)
        rows = _of(merchant_id, columns.merchant_ids, columns.merchants, rows)
        return [
            PastPurchase(
                transaction_id=columns.transaction_ids[row],
                event_time_ms=int(columns.event_times_ms[row]),
                merchant_id=columns.merchant_ids[int(columns.merchants[row])],
                amount_minor=int(columns.amounts_minor[row]),
                currency=columns.currency_codes[int(columns.currencies[row])],
                country=country_letters(int(columns.countries[row])),
                has_place=bool(columns.latitudes_e6[row]),
                loaded=True,
            )
            for row in rows.tolist()
        ]

    @cached_property
    def _purchases(self) -> NDArray[np.int64]:
        """Rows of purchases before T, each transaction once: the first row of an id counts, as in the stream."""
        columns = self.columns
        rows = np.flatnonzero(columns.event_times_ms < self.until_ms)
        ids = columns.transaction_ids[rows].tolist()
        if len(set(ids)) < len(ids):
            first = {transaction_id: place for place, transaction_id in reversed(list(enumerate(ids)))}
            rows = rows[sorted(first.values())]
        return rows[columns.is_purchase[rows]]


def read_past(
    file: Path, mapping: str | None, features: FeatureSet, *, until_ms: int | None, label_delay_ms: int
) -> Past:
    """The history in `file` as of `until_ms`; None for one millisecond after its newest transaction.

    Raises:
        UsageError: the file or the mapping cannot be used.
        MalformedRecord: a row before T breaks the contract; names row, field and rule.
    """
    try:
        columns = read_history(file, mapping)
    except MalformedRecord:
        if until_ms is None:
            raise
        # rows from T on are no concern of ours; those before it are read one by one, and a bad one is named
        rows = read_transactions(file, load_mapping(mapping) if mapping else None, until_ms=until_ms)
        columns = history_columns(rows)
    if until_ms is None:
        until_ms = int(columns.event_times_ms.max(initial=-1)) + 1
    return Past(columns, features, until_ms, label_delay_ms)


def _of(only: str | None, ids: Sequence[str], codes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `rows` that are of the entity `only`; all of them for None."""
    if only is None:
        return rows
    found: NDArray[np.int64] = rows[codes[rows] == (ids.index(only) if only in ids else -1)]
    return found


def _by_entity(codes: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(entity, its rows in order of time) for every entity among `rows`."""
    if not len(rows):
        return
    order = rows[np.argsort(codes[rows], kind="stable")]
    sorted_codes = codes[order]
    bounds = np.flatnonzero(np.append(True, sorted_codes[1:] != sorted_codes[:-1]))
    for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(order)], strict=True):
        yield int(sorted_codes[begin]), order[begin:end]
