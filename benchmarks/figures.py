"""What a measurement hands over: figures with their goals, tables, and the arithmetic between samples and both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

Cell = str | float | int


class Figure(Struct, frozen=True, kw_only=True):
    """One measured number.

    Attributes:
        name: what was measured.
        unit: of all numbers here.
        value: the figure; the median where a measurement was repeated.
        lowest: of the repeats (or windows); None where there is only one.
        highest: likewise.
        at_most: the goal; None where there is none.
    """

    name: str
    unit: str
    value: float
    lowest: float | None = None
    highest: float | None = None
    at_most: float | None = None

    @property
    def goal_met(self) -> bool | None:
        """Whether `value` keeps the goal; None without a goal."""
        return None if self.at_most is None else self.value <= self.at_most


class Table(Struct, frozen=True, kw_only=True):
    """Further numbers behind the figures; each row starts with its name."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Part(Struct, frozen=True, kw_only=True):
    """One part of the report: what was measured when, on how busy a machine."""

    name: str
    measured_at: str  # ISO 8601, UTC
    load_average: float  # of the minute before it began
    seconds: float
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()


class Findings(Struct, frozen=True, kw_only=True):
    """What a part's measurement answers, before it is dated."""

    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()


def repeated(name: str, unit: str, values: Sequence[float], *, at_most: float | None = None) -> Figure:
    """The median of `values` (at least one) between their lowest and highest."""
    return Figure(
        name=name,
        unit=unit,
        value=statistics.median(values),
        lowest=min(values),
        highest=max(values),
        at_most=at_most,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 < share <= 1) of them do not exceed: one that was measured."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
