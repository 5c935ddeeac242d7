"""Random draws that are the same on every machine.

Only `random.Random.random()` and the four operations on float64: exp, log and cos of the C library may differ in the
last bit between machines, and with them an amount by a cent.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_ROOT_OF_THREE: Final = 1.7320508075688772


def generator(*parts: object) -> random.Random:
    """A generator of its own for what `parts` name (`seed, "customer", 12`), independent of every other one."""
    return random.Random("/".join(str(part) for part in parts))


def bell(rng: random.Random) -> float:
    """A bell-shaped draw: mean 0, variance 1, within ±3.47 (the sum of four uniform draws)."""
    uniform = rng.random
    return (uniform() + uniform() + uniform() + uniform() - 2.0) * _ROOT_OF_THREE


def skewed(rng: random.Random, spread: float) -> float:
    """A positive factor around 1 with a long right tail, close to lognormal(0, spread); `spread` in 0..2."""
    factor = 1.0 + spread * bell(rng) / 64.0
    for _ in range(6):  # (1 + x/64)^64 stands in for exp(x)
        factor *= factor
    return factor


def between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def whole_between(rng: random.Random, low: int, high: int) -> int:
    """A whole number in low..high, both ends included."""
    return low + int(rng.random() * (high - low + 1))


class Instalments:
    """Whole numbers whose sum keeps up with the sum of the shares asked for, from a random point on."""

    def __init__(self, rng: random.Random) -> None:
        self._owed = rng.random()

    def take(self, share: float) -> int:
        self._owed += share
        whole = int(self._owed)
        self._owed -= whole
        return whole


def running_totals(weights: Iterable[float]) -> list[float]:
    totals: list[float] = []
    total = 0.0
    for weight in weights:
        total += weight
        totals.append(total)
    return totals


def pick(rng: random.Random, population: Sequence[T], totals: Sequence[float]) -> T:
    """One element, likelier with its weight; `totals` are the weights' running totals."""
    return population[bisect(totals, rng.random() * totals[-1], 0, len(totals) - 1)]


def pick_evenly(rng: random.Random, population: Sequence[T]) -> T:
    return population[int(rng.random() * len(population))]
