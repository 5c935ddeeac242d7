"""What the report needs to know of a history beside its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.scored_rows import Segmentation, by_amount, by_card_age, by_text, first_times
from stream_features.vectorised.columns import HistoryColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFacts:
    """One entry per row of the history.

    Attributes:
        amounts: shape (history rows,), int64, US cents.
        segmentations: the groups to report by.
    """

    amounts: NDArray[np.int64]
    segmentations: tuple[Segmentation, ...]

    @classmethod
    def of(cls, history: HistoryColumns, texts: Mapping[str, tuple[NDArray[np.int64], Sequence[str | None]]]) -> Self:
        """Groups by text fields, by amount and by card age (since the card's first transaction in the history).

        Args:
            history: the columns that features were computed from.
            texts: for each field by name, the place of every history row in its different values, and those.

        Raises:
            MalformedRecord: `currency`/`no_rate`.
        """
        amounts = history.base_amounts()
        ages_ms = history.event_times_ms - first_times(history.cards, history.event_times_ms)
        by_field = [by_text(name, codes, values) for name, (codes, values) in texts.items()]
        return cls(amounts=amounts, segmentations=(*by_field, by_amount(amounts), by_card_age(ages_ms)))
