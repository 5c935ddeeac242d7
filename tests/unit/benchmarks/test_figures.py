"""Figures and the percentile they rest on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.figures import Figure, percentile, repeated


def test_a_goal_is_met_up_to_and_with_its_bound() -> None:
    def figure(value: float, at_most: float | None) -> Figure:
        return Figure(name="n", unit="ms", value=value, at_most=at_most)

    assert figure(5.0, 5.0).goal_met is True
    assert figure(5.01, 5.0).goal_met is False
    assert figure(5.0, None).goal_met is None


def test_repeats_are_told_by_their_median_between_the_extremes() -> None:
    figure = repeated("n", "ms", [9.0, 1.0, 2.0], at_most=3.0)
    assert (figure.lowest, figure.value, figure.highest) == (1.0, 2.0, 9.0)
    assert figure.goal_met is True


def test_percentiles_of_a_hundred_are_their_places() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]


def test_one_slow_value_in_a_hundred_is_beyond_p99_two_are_not() -> None:
    assert percentile([1.0] * 99 + [1000.0], 0.99) == 1.0
    assert percentile([1.0] * 98 + [1000.0] * 2, 0.99) == 1000.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


@settings(max_examples=100)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0.01, 1.0))
def test_a_percentile_is_the_smallest_value_that_bounds_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)

    def bounds(value: float) -> bool:
        return sum(other <= value for other in values) >= share * len(values)

    assert found == min(value for value in values if bounds(value))
