"""Scored rows for tests: few scores, so that there are ties, and cards with several rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from model.scored_rows import DAY_MS, ScoredRows

Row = tuple[int, int, bool, int, int]  # card, day, is fraud, score in tenths, amount in cents

row_lists: st.SearchStrategy[list[Row]] = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans(), st.integers(0, 10), st.integers(0, 5_000)),
    min_size=1,
    max_size=40,
)


def scored_rows(rows: list[Row], *, review_from: float = 0.5, decline_from: float = 0.8, **other: Any) -> ScoredRows:
    """Rows in the order given; within a day each is a second after the one before."""
    card, day, fraud, tenths, amount = (np.array(column) for column in zip(*rows, strict=True))
    scores = tenths / 10
    return ScoredRows(
        labels=fraud.astype(np.uint8),
        scores=scores,
        card_ids=np.array([f"card-{number}" for number in card]),
        event_times_ms=day * DAY_MS + np.arange(len(rows)) * 1_000,
        amounts=amount.astype(np.int64),
        reviewed=scores >= review_from,
        declined=scores >= decline_from,
        **other,
    )


def random_rows(count: int, *, seed: int = 0, cards: int = 40, share: float = 0.05, **other: Any) -> ScoredRows:
    """Rows over ten days whose scores know something of the truth."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < share
    tenths = np.clip(np.rint(rng.normal(2 + 4 * labels, 2)), 0, 10).astype(int)
    listed = zip(
        rng.integers(cards, size=count).tolist(),
        np.sort(rng.integers(10, size=count)).tolist(),
        labels.tolist(),
        tenths.tolist(),
        rng.integers(1, 200_000, size=count).tolist(),
        strict=True,
    )
    return scored_rows(list(listed), **other)
