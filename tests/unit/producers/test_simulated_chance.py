from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.simulated_chance import (
    Instalments,
    bell,
    generator,
    pick,
    running_totals,
    skewed,
    whole_between,
)


def test_bell_has_mean_0_and_variance_1() -> None:
    rng = generator("bell")
    draws = [bell(rng) for _ in range(20_000)]
    assert statistics.fmean(draws) == pytest.approx(0, abs=0.03)
    assert statistics.pvariance(draws) == pytest.approx(1, abs=0.03)


def test_skewed_has_median_1_and_the_spread_of_a_lognormal() -> None:
    rng = generator("skewed")
    logs = [math.log(skewed(rng, 0.6)) for _ in range(20_000)]
    assert statistics.median(logs) == pytest.approx(0, abs=0.03)
    assert statistics.pstdev(logs) == pytest.approx(0.6, abs=0.03)


@given(st.integers(-5, 5), st.integers(0, 5), st.integers())
def test_whole_between_reaches_both_ends_and_nothing_else(low: int, width: int, seed: int) -> None:
    rng = generator(seed)
    assert {whole_between(rng, low, low + width) for _ in range(300)} == set(range(low, low + width + 1))


def test_pick_follows_the_weights() -> None:
    rng = generator("pick")
    totals = running_totals([1, 0, 3])
    drawn = [pick(rng, "abc", totals) for _ in range(8_000)]
    assert drawn.count("b") == 0
    assert drawn.count("c") / drawn.count("a") == pytest.approx(3, rel=0.15)


@given(st.lists(st.floats(0, 5), max_size=50), st.integers())
def test_instalments_keep_up_with_what_is_owed(shares: list[float], seed: int) -> None:
    due = Instalments(generator(seed))
    taken = sum(due.take(share) for share in shares)
    assert abs(taken - sum(shares)) < 1 + 1e-9


def test_generators_of_other_names_are_independent() -> None:
    assert generator(1, "area", 2).random() != generator(1, "area", 3).random()
    assert generator(1, "area", 2).random() == generator(1, "area", 2).random()
