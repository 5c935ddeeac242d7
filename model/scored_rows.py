"""Scored, labelled rows and the groups they are reported by: what training and exported decisions have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

DAY_MS: Final = 24 * 3600 * 1000

MOST_GROUPS: Final = 15
NOT_GIVEN: Final = "(not given)"
OTHERS: Final = "(all others)"

_AMOUNT_BANDS: Final = (
    (0, "below 10 USD"),
    (1_000, "10 to 50 USD"),
    (5_000, "50 to 100 USD"),
    (10_000, "100 to 500 USD"),
    (50_000, "500 to 1,000 USD"),
    (100_000, "1,000 USD and more"),
)
_CARD_AGES: Final = (
    (0, "first day"),
    (DAY_MS, "1 to 7 days"),
    (7 * DAY_MS, "7 to 30 days"),
    (30 * DAY_MS, "30 to 90 days"),
    (90 * DAY_MS, "90 days and more"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Rows in disjoint groups.

    Attributes:
        name: what the groups are by.
        codes: shape (rows,), int64, places in `groups`.
        groups: the groups' names, in the order in which they are shown.
    """

    name: str
    codes: NDArray[np.int64]
    groups: tuple[str, ...]

    def take(self, rows: NDArray[Any]) -> Self:
        """The same groups for some of the rows (places or a mask)."""
        return type(self)(name=self.name, codes=self.codes[rows], groups=self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """Rows with a score, a truth and what was, or would be, decided; every array has shape (rows,).

    Attributes:
        labels: uint8, 1 = fraud.
        scores: float64, 0..1.
        card_ids: texts.
        event_times_ms: int64, UTC epoch milliseconds.
        amounts: int64, US cents.
        reviewed: bool, review or decline: somebody is told.
        declined: bool, never without `reviewed`.
        segmentations: the groups the report shows.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float64]
    card_ids: NDArray[np.str_]
    event_times_ms: NDArray[np.int64]
    amounts: NDArray[np.int64]
    reviewed: NDArray[np.bool_]
    declined: NDArray[np.bool_]
    segmentations: tuple[Segmentation, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def days(self) -> NDArray[np.int64]:
        """UTC days since the epoch."""
        return self.event_times_ms // DAY_MS


def by_text(name: str, codes: NDArray[np.int64], values: Sequence[str | None]) -> Segmentation:
    """Groups by a text field, the largest first; groups beyond `MOST_GROUPS` become one.

    Args:
        name: of the field.
        codes: shape (rows,), places in `values`.
        values: the field's different values; None is a group of its own.
    """
    names = [NOT_GIVEN if value is None else value for value in values]
    rows = np.bincount(codes, minlength=len(names))
    order = sorted(
        (place for place in range(len(names)) if rows[place]), key=lambda place: (-rows[place], names[place])
    )
    shown = order if len(order) <= MOST_GROUPS else order[: MOST_GROUPS - 1]
    group_of = np.full(len(names), len(shown), dtype=np.int64)
    group_of[shown] = np.arange(len(shown))
    groups = [names[place] for place in shown]
    return Segmentation(
        name=name, codes=group_of[codes], groups=tuple(groups if len(shown) == len(order) else [*groups, OTHERS])
    )


def by_amount(amounts: NDArray[np.int64]) -> Segmentation:
    """Groups by amount in US cents; a band begins at its lower bound."""
    return _by_band("amount", amounts, _AMOUNT_BANDS)


def by_card_age(ages_ms: NDArray[np.int64]) -> Segmentation:
    """Groups by the time since the card's first known transaction, in milliseconds, at least 0."""
    return _by_band("card age", ages_ms, _CARD_AGES)


def first_times(codes: NDArray[np.int64], event_times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, the earliest event time of its code (int64 milliseconds); codes count from 0."""
    first = np.full(int(codes.max(initial=-1)) + 1, np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(first, codes, event_times_ms)
    return first[codes]


def _by_band(name: str, values: NDArray[np.int64], bands: Sequence[tuple[int, str]]) -> Segmentation:
    starts = np.array([start for start, _ in bands], dtype=np.int64)
    codes = np.searchsorted(starts, values, side="right").astype(np.int64) - 1
    return Segmentation(name=name, codes=codes, groups=tuple(label for _, label in bands))
