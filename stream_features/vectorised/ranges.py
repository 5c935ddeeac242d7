"""Answers about ranges of a sorted array, for many ranges at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def range_maxima(values: Integers, first: Integers, end: Integers) -> Integers:
    """The largest of `values[first:end]` for each range; 0 for an empty one.

    Maxima over 1, 2, 4, ... neighbours; a range is covered by two such runs that may overlap.

    Args:
        values: shape (n,), not negative.
        first: shape (ranges,), int64.
        end: shape (ranges,), int64, at most n.
    """
    lengths = end - first
    largest = np.zeros(len(first), dtype=np.int64)
    runs, run = values, 1
    while len(rows := np.flatnonzero((lengths >= run) & (lengths < 2 * run))) or int(lengths.max(initial=0)) >= 2 * run:
        largest[rows] = np.maximum(runs[first[rows]], runs[end[rows] - run])
        runs = np.maximum(runs[: max(len(runs) - run, 0)], runs[run:])
        run *= 2
    return largest


def distinct_counts(previous: Integers, row_of: Integers, first: Integers, end: Integers) -> Integers:
    """How many different values stand in `[first, end)` of a sequence, for windows that only move forward.

    A place is a repetition in the windows that hold both it and the place of the same value before it. Those windows
    follow one another, so each place adds one step up and one step down.

    Args:
        previous: shape (n,), the place of the same value before, -1 for none.
        row_of: shape (n,), the first window (by number) that reaches beyond the place.
        first: shape (windows,), not decreasing.
        end: shape (windows,), not decreasing, at least `first`.
    """
    again = np.flatnonzero(previous >= 0)
    begins = row_of[again]
    ends = np.searchsorted(first, previous[again], side="right")
    both = begins < ends
    steps = np.bincount(begins[both], minlength=len(first) + 1) - np.bincount(ends[both], minlength=len(first) + 1)
    repetitions: Integers = np.cumsum(steps[: len(first)], dtype=np.int64)
    return end - first - repetitions


def previous_places(keys: Integers) -> Integers:
    """For each place of `keys` the place of the same key before it, -1 for none."""
    order = np.argsort(keys, kind="stable")
    previous = np.full(len(keys), -1, dtype=np.int64)
    same = keys[order[1:]] == keys[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous
