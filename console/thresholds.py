"""Thresholds by review capacity or by cost, from decisions in the lake and what labels know by now.

They are about the model alone: rules and lists come before it and are left out of the count, and so is what was
decided without a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import msgspec

from console.backtest import Archived
from stream_features.currency import RATES
from stream_features.errors import UsageError
from stream_features.transaction import Transaction

_DAY_MS: Final = 86_400_000


class _Scored(msgspec.Struct, frozen=True):
    transaction: Transaction
    score: float


class Chosen(NamedTuple):
    """Two thresholds, and what they would have meant.

    Attributes:
        review_from: least score to review.
        decline_from: least score to decline.
        reviews_per_day: decisions between the two, by event time.
        cost_minor: what is minimised, in base minor units; None by capacity.
    """

    review_from: float
    decline_from: float
    reviews_per_day: float
    cost_minor: int | None = None


def by_capacity(archived: Sequence[Archived], reviews_per_day: float, decline_from: float) -> Chosen:
    """The lowest `review_from` that gives at most so many reviews a day on average, below a given `decline_from`.

    Raises:
        UsageError: there are no decisions to go by.
    """
    scored = _scored(archived)
    days = _days(scored)
    most = reviews_per_day * days
    review_from, reviews = decline_from, 0
    below = sorted((one.score for one in scored if one.score < decline_from), reverse=True)
    for score, equal in groupby(below):
        following = reviews + sum(1 for _ in equal)
        if following > most:
            break
        review_from, reviews = score, following
    return Chosen(review_from, decline_from, reviews / days)


def by_cost(archived: Sequence[Archived], frauds: Mapping[str, bool], *, review_cost: int, decline_cost: int) -> Chosen:
    """The thresholds that would have cost least.

    A fraud that is approved costs its amount, a review `review_cost`, a good transaction that is declined
    `decline_cost`; reviews and declines stop every fraud.

    Args:
        archived: decisions; only labelled ones count.
        frauds: what labels say, by transaction id.
        review_cost: in base minor units, as all amounts here.
        decline_cost: see review_cost.

    Raises:
        UsageError: no decision has a label.
    """
    scored = _scored(archived)
    labelled = [one for one in scored if one.transaction.transaction_id in frauds]
    if not labelled:
        raise UsageError("no decision in the lake has a label: thresholds by cost need labels")
    missed = {one.transaction.transaction_id: _amount(one) for one in labelled if _is_fraud(one, frauds)}
    # From the highest score down: what it costs to review, and to decline, everything from this score up.
    reviewing, declining = sum(missed.values()), 0
    best = (reviewing, 1.0, 1.0)
    best_declining, best_decline_from = 0, 1.0
    ranked = sorted(labelled, key=lambda one: -one.score)
    for score, group in groupby(ranked, key=lambda one: one.score):
        for one in group:
            fraud = _is_fraud(one, frauds)
            reviewing += review_cost - (missed[one.transaction.transaction_id] if fraud else 0)
            declining += (0 if fraud else decline_cost) - review_cost
        if declining < best_declining:
            best_declining, best_decline_from = declining, score
        if reviewing + best_declining < best[0]:
            best = (reviewing + best_declining, score, best_decline_from)
    cost, review_from, decline_from = best
    reviews = sum(review_from <= one.score < decline_from for one in scored)
    return Chosen(review_from, decline_from, reviews / _days(scored), cost)


def _scored(archived: Iterable[Archived]) -> list[_Scored]:
    return [_Scored(one.transaction, one.score) for one in archived if one.score is not None]


def _is_fraud(one: _Scored, frauds: Mapping[str, bool]) -> bool:
    return frauds[one.transaction.transaction_id]


def _amount(one: _Scored) -> int:
    transaction = one.transaction
    return RATES.base_amount(transaction.amount_minor, transaction.currency, transaction.event_time_ms)


def _days(archived: Iterable[_Scored]) -> int:
    """Distinct UTC days that have a decision."""
    days = {one.transaction.event_time_ms // _DAY_MS for one in archived}
    if not days:
        raise UsageError("no decisions with a score in the lake within these times")
    return len(days)
