"""Training rows from a history, by the vectorised path, which gives the bits of the path that scores the live stream.

Features are computed over the *whole* history, in arrival order; only then rows are chosen by time, so that the first
chosen row already knows its card and its merchant. Only purchases become rows: labels are about purchases, and no
feature tells a refund of 500 from a purchase of 500, so refunds would teach that large amounts are safe. (They are
scored online all the same.) Rows without a label teach nothing and are left out, after having counted in the windows of
others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from model.matrix import UnrepresentableValue, model_matrix
from stream_features.errors import ContractMismatch
from stream_features.feature_sets import FeatureSet
from stream_features.transaction import Transaction
from stream_features.vectorised.backfill import backfill
from stream_features.vectorised.columns import UNLABELLED, HistoryColumns, history_columns

DEFAULT_LABEL_DELAY_MS: Final = 5 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Labelled purchases, one per row, in the history's order.

    Attributes:
        feature_set: what the columns of `features` are.
        features: shape (rows, columns), float32, NaN = missing.
        labels: shape (rows,), uint8, 1 = fraud.
        event_times_ms: shape (rows,), int64, UTC epoch milliseconds.
        transaction_ids: shape (rows,).
        card_ids: shape (rows,).
        history_rows: shape (rows,), int64, each row's number in the history it was chosen from.
    """

    feature_set: FeatureSet
    features: NDArray[np.float32]
    labels: NDArray[np.uint8]
    event_times_ms: NDArray[np.int64]
    transaction_ids: NDArray[np.str_]
    card_ids: NDArray[np.str_]
    history_rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def between(self, from_ms: int | None, until_ms: int | None) -> Self:
        """The rows with `from_ms <= event time < until_ms`; None leaves that end open."""
        chosen = np.ones(len(self), dtype=bool)
        if from_ms is not None:
            chosen &= self.event_times_ms >= from_ms
        if until_ms is not None:
            chosen &= self.event_times_ms < until_ms
        return self.take(chosen)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the rows, by place or by mask."""
        return type(self)(
            feature_set=self.feature_set,
            features=self.features[rows],
            labels=self.labels[rows],
            event_times_ms=self.event_times_ms[rows],
            transaction_ids=self.transaction_ids[rows],
            card_ids=self.card_ids[rows],
            history_rows=self.history_rows[rows],
        )


def build_training_set(
    history: HistoryColumns | Iterable[tuple[Transaction, bool | None]],
    feature_set: FeatureSet,
    *,
    label_delay_ms: int = DEFAULT_LABEL_DELAY_MS,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> TrainingSet:
    """Compute features over all of `history` and keep the labelled purchases with `from_ms <= event time < until_ms`.

    Args:
        history: columns, or (transaction, is fraud or None), in arrival order.
        feature_set: the columns.
        label_delay_ms: how long after its transaction each label is reported, and so seen by merchant features.
        from_ms: UTC epoch ms; None = from the start.
        until_ms: UTC epoch ms, exclusive; None = to the end.

    Raises:
        ContractMismatch: a feature value does not fit in 32 bits.
    """
    columns = history if isinstance(history, HistoryColumns) else history_columns(history)
    values = backfill(columns, feature_set, label_delay_ms=label_delay_ms)
    chosen = columns.is_purchase & (columns.frauds != UNLABELLED)
    if from_ms is not None:
        chosen &= columns.event_times_ms >= from_ms
    if until_ms is not None:
        chosen &= columns.event_times_ms < until_ms
    rows = np.flatnonzero(chosen)
    transaction_ids = columns.transaction_ids[rows].astype(np.str_)
    return TrainingSet(
        feature_set=feature_set,
        features=_cast(values[rows], feature_set, transaction_ids),
        labels=columns.frauds[rows].astype(np.uint8),
        event_times_ms=columns.event_times_ms[rows],
        transaction_ids=transaction_ids,
        card_ids=np.array(columns.card_ids, dtype=np.str_)[columns.cards[rows]],
        history_rows=rows,
    )


def _cast(
    values: NDArray[np.float64], feature_set: FeatureSet, transaction_ids: NDArray[np.str_]
) -> NDArray[np.float32]:
    try:
        return model_matrix(values, len(feature_set.names))
    except UnrepresentableValue as error:
        raise ContractMismatch(
            f"transaction {transaction_ids[error.row]}: feature {feature_set.names[error.column]} "
            "is infinite or does not fit in 32 bits"
        ) from error
